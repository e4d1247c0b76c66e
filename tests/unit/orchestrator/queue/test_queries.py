"""References to runs and sweeps, and which sweeps are listed."""

import pytest

from orchestrator.errors import NothingAffected
from tests.queue_kit import planned, runs, submit


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
