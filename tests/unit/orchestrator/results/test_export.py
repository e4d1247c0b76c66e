"""Exports: every run a row, nothing lost on its way into CSV, JSON lines, Parquet or Datasette."""

import csv
import io
import json
import shutil
import subprocess
import sys

import pyarrow.parquet
import pytest

from orchestrator.cli import main
from orchestrator.results.export import flat, to_csv, to_parquet
from orchestrator.run import Outcome, Verdict
from orchestrator.system.paths import home
from tests.sweep_kit import add_sweep, finish_next, finished_sweep, planned_run, write_run

PNG = b"\x89PNG\r\n\x1a\n"
NAMES = (
    *("id", "sweep", "name", "state", "reason", "seed", "tags", "value", "update"),
    *(
        "updates_total",
        "attempt",
        "wall_s",
        "started",
        "ended",
        "exit_code",
        "stop_code",
        "output_dir",
    ),
)


@pytest.fixture
def mixed(tmp_path):
    """A completed, a failed and a waiting run, their overrides of every kind."""
    runs = [
        planned_run("a", 0, {"learning_rate": 1e-5, "rewards": ["int"], "stop": 'a,\n"b" é'}),
        planned_run("b", None, {"learning_rate": 1, "shuffle": False}, tags=("x", "y")),
        planned_run("c", 2, {}),
    ]
    add_sweep(tmp_path, runs)
    finish_next(write=lambda run: write_run(run.folder, 0.9, 20))
    finish_next(Outcome(Verdict.DIVERGED, "nan", "loss nan", 6), wall_s=2.5)
    return tmp_path


def lines(capfd):
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_json_lines_hold_every_run_with_all_that_is_known(mixed, capfd):
    """One row a run, in the order of the sweep; what is unknown is null."""
    assert main(["export", "s", "--jsonl", "-"]) == 0
    a, b, c = lines(capfd)
    assert tuple(a) == (*NAMES, "overrides", "metrics")
    assert (a["id"], a["name"], a["state"], a["seed"]) == (1, "a", "completed", 0)
    assert a["overrides"] == {"learning_rate": 1e-5, "rewards": ["int"], "stop": 'a,\n"b" é'}
    assert a["value"] == a["metrics"]["em"]
    assert a["update"] == 20
    assert (b["state"], b["seed"], b["tags"], b["wall_s"]) == ("failed", None, ["x", "y"], 2.5)
    assert "nan" in b["reason"]
    assert (c["state"], c["value"], c["started"], c["metrics"]) == ("queued", None, None, {})


def test_csv_has_the_same_cells_under_dotted_names(mixed, capfd):
    """As pandas.json_normalize would name them; quotes, commas and line breaks survive."""
    import pandas

    assert main(["export", "s", "--jsonl", "-"]) == 0
    records = lines(capfd)
    assert main(["export", "s"]) == 0
    rows = list(csv.DictReader(io.StringIO(capfd.readouterr().out, newline="")))
    assert set(rows[0]) == set(pandas.json_normalize(records).columns)
    assert rows[0]["overrides.stop"] == 'a,\n"b" é'
    assert rows[0]["overrides.learning_rate"] == "1e-05"
    assert rows[0]["overrides.rewards"] == '["int"]'
    assert rows[1]["overrides.shuffle"] == "false"
    assert rows[2]["value"] == rows[2]["overrides.learning_rate"] == ""
    assert float(rows[0]["metrics.em"]) == records[0]["metrics"]["em"]
    assert [name for name in rows[0] if "." not in name] == list(NAMES)


def test_parquet_has_types(mixed, tmp_path, capfd):
    """Whole numbers with a float among them are floats; lists are JSON; what is missing is null."""
    path = tmp_path / "a.parquet"
    assert main(["export", "s", "--parquet", str(path)]) == 0
    assert capfd.readouterr().out == f"{path}\n"
    table = pyarrow.parquet.read_table(path)
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["id"] == "int64"
    assert kinds["overrides.learning_rate"] == kinds["metrics.em"] == "double"
    assert kinds["overrides.shuffle"] == "bool"
    assert kinds["name"] == kinds["overrides.rewards"] == "string"
    assert table["overrides.learning_rate"].to_pylist() == [1e-5, 1.0, None]
    assert table["overrides.rewards"].to_pylist() == ['["int"]', None, None]
    assert table["seed"].to_pylist() == [0, None, 2]


def test_a_column_of_several_kinds_becomes_text():
    """No value is bent to fit; a whole number beyond 64 bits neither."""
    records = [{"overrides": {"a": 1, "b": 2**70, "c": 2**60 + 1}, "metrics": {}},
               {"overrides": {"a": "x", "b": 3, "c": 0.5}, "metrics": {}}]  # fmt: skip
    table = pyarrow.parquet.read_table(io.BytesIO(to_parquet(records)))
    assert table["overrides.a"].to_pylist() == ["1", '"x"']
    assert table["overrides.b"].to_pylist() == [str(2**70), "3"]
    assert table["overrides.c"].to_pylist() == [str(2**60 + 1), "0.5"]


def test_a_sweep_of_no_known_value_is_still_a_table(tmp_path):
    """Columns whose every value is missing have a type and do not break a reader."""
    empty = [{"id": 1, "value": None, "overrides": {}, "metrics": {}}]
    assert pyarrow.parquet.read_table(io.BytesIO(to_parquet(empty)))["value"].to_pylist() == [None]
    assert to_csv(empty) == b"id,value\r\n1,\r\n"
    assert flat(empty[0]) == {"id": 1, "value": None}


def test_pictures_are_png_files_named_for_what_they_show(tmp_path, capfd):
    """Also where a name would be a formula to matplotlib."""
    settings = [(0.9, {"system_prompt": "$x^{$"}), (0.1, {"system_prompt": "a_$b"})]
    finished_sweep(tmp_path, settings, seeds=(0, 1), name="$s^{")
    folder = tmp_path / "plots"
    assert main(["export", "--png", str(folder)]) == 0
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "ranking.png", "best-so-far.png", "reward_mean.png", "em.png", "kl.png",
        "completion_length.png", "entropy.png",
    }  # fmt: skip
    assert all(path.read_bytes().startswith(PNG) for path in folder.iterdir())
    assert set(capfd.readouterr().out.splitlines()) == set(map(str, folder.iterdir()))


def test_several_formats_at_once(mixed, tmp_path, capfd):
    """Each path is printed."""
    words = ["--csv", "a.csv", "--jsonl", "a.jsonl"]
    words = [str(tmp_path / word) if "." in word else word for word in words]
    assert main(["export", *words]) == 0
    assert capfd.readouterr().out.split() == [words[1], words[3]]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuch"], 3, "nosuch: no such sweep"),
        (["--csv", "none/a.csv"], 2, "the folder none does not exist; make it, or name another"),
        (["--csv", "-", "--jsonl", "-"], 2, "stdout can take one format; give the others a file"),
        (["--png", "none/plots"], 2, "none/plots: the folder cannot be made"),
    ],
)
def test_bad_input_gets_one_message_and_writes_nothing(
    tmp_path, monkeypatch, capfd, words, code, message
):
    """Exit codes as docs/json.md says."""
    finished_sweep(tmp_path / "runs", [(0.5, {})])
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main(["export", *words]) == code
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not list((tmp_path / "here").iterdir())


def test_pictures_of_a_sweep_that_never_ran_are_refused(tmp_path, capfd):
    """There is nothing to draw: exit 3, and words."""
    add_sweep(tmp_path, [planned_run("a", 0, {})])
    assert main(["export", "--png", str(tmp_path / "p")]) == 3
    assert "no run has logged anything to draw yet" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("package", "option", "message"),
    [
        ("matplotlib", ["--png", "p"], "install it with: pip install 'grpo-sweep[png]'"),
        ("pyarrow", ["--parquet", "a.parquet"], "get it with: pip install pyarrow"),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path, monkeypatch, capfd, package, option, message
):
    """As in an installation without the extra."""
    finished_sweep(tmp_path, [(0.5, {})])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", *option]) == 2
    assert message in capfd.readouterr().err


@pytest.mark.parametrize("view", ["runs_view", "attempts_view", "leaderboard"])
def test_the_views_of_the_queue_open_in_datasette(mixed, view):
    """As a user of Datasette reads them: a JSON page of each view, from the live file."""
    datasette = shutil.which("datasette", path=str(sys.prefix) + "/bin")
    if datasette is None:
        pytest.skip("datasette is not installed (pip install datasette)")
    words = [datasette, "serve", str(home().db), "--get", f"/queue/{view}.json?_shape=array"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["sweep"] for row in rows} == {"s"}
    assert len(rows) == {"runs_view": 3, "attempts_view": 2, "leaderboard": 1}[view]


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "\rx"])
def test_a_text_is_no_formula_in_a_spreadsheet(text):
    """A cell that begins so is computed when the file is opened; numbers stay what they are."""
    record = {"name": text, "value": -0.5, "tags": [text]}
    (row,) = csv.DictReader(io.StringIO(to_csv([record]).decode(), newline=""))
    assert row["name"] == "'" + text
    assert row["value"] == "-0.5"
    assert json.loads(row["tags"]) == [text]
