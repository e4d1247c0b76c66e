"""A running search: what it asks for next, in one transaction, from the rows of its sweep."""

from pathlib import Path

import pytest

from orchestrator.errors import NothingAffected, SpecError
from orchestrator.plan.expand import expand
from orchestrator.plan.next_runs import next_runs, spec_of
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Progress, RunState, Verdict
from orchestrator.spec.reader import read_spec
from orchestrator.system.paths import home
from tests.queue_kit import nothing_before

SPEC = """
config = "base.toml"
[set]
batch_size = 2
[search]
method = "tpe"
runs = {runs}
seed = 1
[params]
learning_rate = {{ dist = "loguniform", min = 1e-6, max = 1e-4 }}
loss_type = ["grpo", "dapo"]
clip_eps_high = {{ dist = "uniform", min = 0.2, max = 0.35, when = "loss_type == 'dapo'" }}
[[require]]
that = "learning_rate < 5e-5"
"""
DONE = Outcome(Verdict.COMPLETED, "completed", exit_code=0)
FAILED = Outcome(Verdict.DIVERGED, "diverged", exit_code=6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with base.toml, in which the process stands."""
    (tmp_path / "base.toml").write_text("num_generations = 4\nnum_iterations = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def submit(text, overrides=()):
    Path("s.toml").write_text(text)
    expansion = expand(read_spec(Path("s.toml"), overrides))
    with Store.open(home().db) as store:
        return store.submissions.add_sweep("s", lambda name: expansion.plan(name, str(Path.cwd())))


def finish_all(store, value=lambda run: run.overrides["learning_rate"], outcome=DONE):
    """Let every queued run end as a worker would record it."""
    while (claimed := store.claims.claim("host", "boot", nothing_before)) is not None:
        run, attempt = claimed
        store.claims.finish(
            attempt, outcome, newer_checkpoint=True, progress=Progress(4, 4), value=value(run)
        )


def test_a_search_asks_until_it_has_what_it_was_told(folder):
    """Ten settings at submit, then one at a time; none twice, all within the rules."""
    sweep = submit(SPEC.format(runs=13))
    assert (sweep.to_ask, sweep.state) == (3, "queued")
    with Store.open() as store:
        for left in (3, 2, 1):
            assert store.queries.awaiting_suggestion() == []
            finish_all(store)
            assert [s.to_ask for s in store.queries.awaiting_suggestion()] == [left]
            assert len(store.submissions.suggest(sweep.id, next_runs)) == 1
        finish_all(store)
        assert store.queries.awaiting_suggestion() == []
        runs = store.queries.runs(sweep.id)
        assert store.queries.sweep("s").state == "completed"
    assert [run.position for run in runs] == list(range(13))
    assert len({run.name for run in runs}) == len({run.output_dir for run in runs}) == 13
    for run in runs:
        assert run.overrides["learning_rate"] < 5e-5
        assert ("clip_eps_high" in run.overrides) == (run.overrides["loss_type"] == "dapo")
        assert run.set[0] == "batch_size=2"
        assert run.set[-1] == f"output_dir={run.output_dir}"


def test_a_search_goes_on_in_a_free_slot_while_others_train(folder):
    """Once nothing waits, and never the setting that trains just now."""
    sweep = submit(SPEC.format(runs=13))
    with Store.open() as store:
        finish_all(store)
        for slot in ("0", "1", "2"):
            (run,) = store.submissions.suggest(sweep.id, next_runs)
            assert store.queries.awaiting_suggestion() == []
            assert store.submissions.suggest(sweep.id, next_runs) == []
            claimed, _ = store.claims.claim("host", "boot", nothing_before, slot)
            assert claimed.id == run.id
        tried = {run.overrides["learning_rate"] for run in store.queries.runs(sweep.id)}
    assert len(tried) == 13


def test_a_setting_that_is_asked_for_gets_every_seed(folder):
    """One trial is one setting; it counts once however many seeds it has."""
    sweep = submit("seeds = [3, 4]\n" + SPEC.format(runs=11))
    with Store.open() as store:
        finish_all(store)
        first, second = store.submissions.suggest(sweep.id, next_runs)
        assert (first.seed, second.seed) == (3, 4)
        assert first.overrides == second.overrides
        assert store.queries.sweep("s").to_ask == 0


def test_the_same_rows_are_asked_for_the_same(folder):
    """Nothing but the rows decides: two readings agree, and a result changes the answer."""
    sweep = submit(SPEC.format(runs=20))
    with Store.open() as store:
        finish_all(store)
        found, runs = store.queries.sweep("s"), store.queries.runs(sweep.id)
    assert next_runs(found, runs) == next_runs(found, runs)
    worse = [type(run)(**{**vars(run), "value": -run.value}) for run in runs]
    assert next_runs(found, worse) != next_runs(found, runs)


def test_the_command_line_and_the_frozen_base_count_when_asked_again(folder):
    """What changed on disk after the submit changes nothing."""
    submit(SPEC.format(runs=11), ["batch_size=3"])
    (folder / "base.toml").write_text("num_generations = 16\n")
    (folder / "s.toml").unlink()
    with Store.open() as store:
        spec = spec_of(store.queries.sweep("s"))
    assert spec.fixed == {"batch_size": 3}
    assert spec.base.config.num_generations == 4


def test_failed_settings_are_not_tried_again(folder):
    """A search over settings that all fail goes on with others."""
    sweep = submit(SPEC.format(runs=12) + "[limits]\nmax_failures = 0\n")
    with Store.open() as store:
        finish_all(store, value=lambda run: None, outcome=FAILED)
        tried = [run.overrides for run in store.queries.runs(sweep.id, [RunState.FAILED])]
        (asked,) = store.submissions.suggest(sweep.id, next_runs)
    assert len(tried) == 10
    assert asked.overrides not in tried


def test_a_proposal_that_fails_leaves_no_trace(folder):
    """The transaction is all or nothing."""
    sweep = submit(SPEC.format(runs=11))

    def broken(sweep, runs):
        raise SpecError("no")

    with Store.open() as store:
        finish_all(store)
        with pytest.raises(SpecError):
            store.submissions.suggest(sweep.id, broken)
        assert store.queries.sweep("s").to_ask == 1
        assert len(store.queries.runs(sweep.id)) == 10


def test_a_search_that_has_tried_all_there_is_ends(folder):
    """A finite space may be smaller than what was asked for."""
    text = '[search]\nmethod = "tpe"\nruns = 12\n[params]\nbatch_size = '
    sweep = submit(f'config = "base.toml"\n{text}{list(range(1, 12))}\n')
    with Store.open() as store:
        for expected in (1, 0):
            finish_all(store, value=lambda run: 1.0)
            assert len(store.submissions.suggest(sweep.id, next_runs)) == expected
        assert (store.queries.sweep("s").to_ask, store.queries.sweep("s").state) == (0, "completed")


def test_an_ended_search_asks_no_more(folder):
    """Cancelling the sweep cancels what it would have chosen too."""
    sweep = submit(SPEC.format(runs=12))
    with Store.open() as store:
        assert store.submissions.end_search(sweep.id)
        assert not store.submissions.end_search(sweep.id)
        store.control.cancel([run.id for run in store.queries.runs(sweep.id)])
        assert store.queries.sweep("s").state == "cancelled"
        assert store.submissions.suggest(sweep.id, next_runs) == []
        with pytest.raises(NothingAffected):
            store.control.cancel([run.id for run in store.queries.runs(sweep.id)])
