"""kill -9 between the ask and the insert: no setting lost, none twice, the same as without."""

import os
import signal
from pathlib import Path

import pytest

from orchestrator.plan.next_runs import next_runs, prepare
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Progress, Verdict
from orchestrator.system import crashpoints
from orchestrator.system.crashpoints import SEARCH_POINTS
from tests.queue_kit import nothing_before
from tests.unit.orchestrator.plan.test_next_runs import SPEC, folder, submit

__all__ = ["folder"]

DONE = Outcome(Verdict.COMPLETED, "completed", exit_code=0)


def serve_once():
    """What a worker does with a search: finish what waits, then ask for the next setting."""
    with Store.open() as store:
        while (claimed := store.claims.claim("host", "boot", nothing_before)) is not None:
            value = claimed[0].overrides["learning_rate"]
            store.claims.finish(
                claimed[1], DONE, newer_checkpoint=True, progress=Progress(4, 4), value=value
            )
        for sweep in store.queries.awaiting_suggestion():
            store.submissions.suggest(sweep.id, next_runs)


def served_in_a_child(point):
    """The signal that ended a process which was told to die at a point; None: it did not get there.

    Forked, so that Optuna is imported once and not a hundred times.
    """
    pid = os.fork()
    if pid == 0:
        os.environ[crashpoints.ENV] = point
        crashpoints._reached.clear()
        try:
            serve_once()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else None


def tried():
    """Every setting that the sweep has queued, in order."""
    with Store.open(readonly=True) as store:
        return [run.overrides for run in store.queries.runs()]


@pytest.mark.storm
def test_fifty_kills_between_ask_and_insert(folder, monkeypatch):
    """After each the next worker proposes the same again; a commit that was made stays made."""
    prepare()
    total = 36
    submit(SPEC.format(runs=total))
    kills = {point: 0 for point in SEARCH_POINTS}
    for number in range(50):
        point = SEARCH_POINTS[number % 2]
        before = len(tried())
        assert served_in_a_child(point) == signal.SIGKILL
        kills[point] += 1
        # Killed before the commit nothing is there; after it exactly one setting more.
        assert len(tried()) - before == (point == "store.suggested")
    assert sum(kills.values()) == 50
    with Store.open() as store:
        assert store.queries.sweep("s").to_ask == total - 10 - 25
    while served_in_a_child("store.nowhere") is None and len(tried()) < total:
        pass
    settings = tried()
    assert len(settings) == total
    assert len({tuple(sorted(setting.items())) for setting in settings}) == total
    assert settings == never_killed(monkeypatch, folder, total)


def never_killed(monkeypatch, folder, total):
    """The settings of the same search in a queue of its own, without any kill."""
    monkeypatch.setenv("GRPO_SWEEP_HOME", str(folder / "other"))
    submit(SPEC.format(runs=total))
    while len(tried()) < total:
        serve_once()
    return tried()


@pytest.mark.parametrize("point", SEARCH_POINTS)
def test_the_crash_table_names_the_point(point):
    """docs/crash-table.md says what must hold after each."""
    table = Path(__file__).parents[2] / "docs" / "crash-table.md"
    assert f"`{point}`" in table.read_text()
