"""Several sweeps on one page: one ranking, one table, and the sweep as a parameter."""

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.report.gather import gather
from orchestrator.report.several import together
from orchestrator.run import Objective
from orchestrator.system.paths import home
from tests.report_kit import Reader, data
from tests.sweep_kit import add_sweep, finish_next, finished_sweep, planned_run, write_run


def joined(*names):
    """The facts of these sweeps as one."""
    with Store.open(home().db, readonly=True) as store:
        return together([gather(store, store.queries.sweep(name), home()) for name in names])


@pytest.fixture
def two(tmp_path):
    """Rates in one sweep, ranks in the other; the base says lora_rank 16 and learning_rate 1e-6."""
    finished_sweep(
        tmp_path, [(0.2, {"learning_rate": 1e-5}), (0.5, {"learning_rate": 1e-3})], name="a"
    )
    finished_sweep(tmp_path, [(0.9, {"lora_rank": 8})], seeds=(0, 1), name="b")
    return tmp_path


def test_settings_of_all_stand_in_one_ranking_by_what_they_come_to(two):
    """Each run has the values of all that any sweep sets; its own base fills the gaps."""
    facts = joined("a", "b")
    assert facts.keys == ("sweep", "learning_rate", "lora_rank")
    assert [row.params for row in facts.rows] == [
        {"sweep": "b", "learning_rate": 1e-6, "lora_rank": 8},
        {"sweep": "a", "learning_rate": 1e-3, "lora_rank": 16},
        {"sweep": "a", "learning_rate": 1e-5, "lora_rank": 16},
    ]
    assert [row.n for row in facts.rows] == [2, 1, 1]
    assert facts.sweep.name == "a + b"
    assert sum(facts.sweep.counts.values()) == 4


def test_the_page_names_the_sweep_of_every_run_and_holds_every_spec(two, monkeypatch, capfd):
    """A column, a way to group the curves, and two specs; the file has both names."""
    monkeypatch.chdir(two)
    assert main(["report", "a", "b", "a"]) == 0
    out, err = capfd.readouterr()
    assert out == "a-b-report.html\n"
    assert err.startswith("4 runs, ")
    reader = Reader()
    reader.feed((two / "a-b-report.html").read_text(encoding="utf-8"))
    table = data(reader, "table")
    assert table["keys"][0] == "sweep"
    assert [(row["id"], row["values"][0]) for row in table["runs"]] == [
        (1, "a"), (2, "a"), (3, "b"), (4, "b"),
    ]  # fmt: skip
    ways = {way["name"]: way for way in data(reader, "curves")["groupings"]}
    assert [(g["label"], g["runs"]) for g in ways["sweep"]["groups"]] == [
        ("a", [1, 2]), ("b", [3, 4]),
    ]  # fmt: skip
    assert reader.words("spec").count("[params]") == 2
    assert "Best setting: sweep b · learning_rate 1e-6 · lora_rank 8" in reader.words("header")


def test_a_sweep_of_another_objective_is_ranked_by_the_first_ones(two, monkeypatch, capfd):
    """By its logs, and it is said; nobody compares a reward with a share."""
    monkeypatch.chdir(two)
    add_sweep(two, [planned_run("c", 0, {"lora_rank": 4})], "c", Objective("reward_mean", "max"))
    finish_next(write=lambda run: write_run(run.folder, 0.1, 20))
    facts = joined("a", "c")
    by_name = {row.params["sweep"]: row.mean for row in facts.rows}
    # em is about 0.3 + 0.4 * 0.98 * gain, the reward above 1.
    assert by_name["c"] == pytest.approx(0.34, abs=0.05)
    assert main(["report", "a", "c"]) == 0
    assert "c is ranked by em here, as a is; its own objective is reward_mean" in (
        capfd.readouterr().err
    )


def test_one_that_is_unknown_is_named_and_nothing_is_written(two, monkeypatch, capfd):
    """Before the long reading."""
    monkeypatch.chdir(two)
    assert main(["report", "a", "nosuch"]) == 3
    out, err = capfd.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "nosuch: no such sweep" in err
    assert not list(two.glob("*.html"))
