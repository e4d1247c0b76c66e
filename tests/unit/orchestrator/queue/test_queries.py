"""References to runs and sweeps, and which sweeps are listed."""

import pytest

from orchestrator.errors import NothingAffected
from orchestrator.run import Progress
from tests.queue_kit import DONE, nothing_before, planned, runs, submit


def test_references_to_runs(tmp_path, store):
    """An id, a range, a sweep's name, the latest sweep, the one before."""
    submit(tmp_path, planned("a"), planned("b"))
    submit(tmp_path, planned("c"), planned("d"), planned("e"), name="t")
    found = {
        ref: [r.id for r in store.queries.find_runs(ref)] for ref in ("2", "2-4", "s", "@", "@~1")
    }
    assert found == {"2": [2], "2-4": [2, 3, 4], "s": [1, 2], "@": [3, 4, 5], "@~1": [1, 2]}


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("9", "run 9: no such run"),
        ("7-9", "7-9: no run has an id in this range"),
        ("lr-swep", "no such sweep; did you mean lr-sweep"),
        ("@~1", "no such sweep"),
        ("99999999999999999999", "no such sweep"),
        ("", "no such sweep"),
    ],
)
def test_references_to_nothing(tmp_path, store, ref, words):
    """Each is told, with the nearest name where there is one."""
    submit(tmp_path, planned("a"), name="lr-sweep")
    with pytest.raises(NothingAffected, match=words):
        store.queries.find_runs(ref)


def test_unfinished_and_latest_sweeps_are_shown(tmp_path, store):
    """An old sweep that still waits is shown however many came after it."""
    submit(tmp_path, planned("old"), name="old")
    for i in range(4):
        name = f"s{i}"
        submit(tmp_path, planned(name), name=name)
        store.control.cancel([runs()[-1].id])
    assert [s.name for s in store.queries.sweeps(latest=2)] == ["old", "s2", "s3"]
    assert len(store.queries.sweeps(all=True)) == 5


def test_what_a_pivot_needs_is_what_the_runs_say(tmp_path, store):
    """Of every run, in order."""
    submit(tmp_path, *(planned(f"r{i}", learning_rate=i) for i in range(3)))
    _, attempt = store.claims.claim("h", "b", nothing_before)
    store.claims.finish(attempt, DONE, newer_checkpoint=False, progress=Progress(), value=0.25)
    found = store.queries.judged(1)
    assert [run.value for run in found] == [0.25, None, None]
    names = ("id", "state", "seed", "overrides", "value")
    assert found == [tuple(getattr(run, n) for n in names) for run in store.queries.runs(1)]
