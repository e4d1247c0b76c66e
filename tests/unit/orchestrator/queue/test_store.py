"""The open queue: opening, a lock, a backup, and reading while another writes."""

import errno
import os
import threading

import pytest

from orchestrator.errors import NothingAffected, QueueError, UsageError
from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from tests.queue_kit import claim, plan_of, planned, states, submit


def test_opening_changes_no_state(tmp_path):
    """A run that is marked running stays so, however often the queue is opened."""
    submit(tmp_path, planned("a"))
    with Store.open() as first:
        claim(first)
    for readonly in (True, False):
        with Store.open(readonly=readonly):
            assert states() == ["running"]


def test_reading_a_queue_that_was_never_made_makes_nothing(tmp_path):
    """A missing file reads as an empty queue, and stays missing."""
    path = tmp_path / "none" / "queue.db"
    with Store.open(path, readonly=True) as store:
        assert store.queries.sweeps(all=True) == store.queries.runs() == []
        with pytest.raises(NothingAffected, match="the queue holds no sweep"):
            store.queries.sweep("@")
    assert not path.parent.exists()


def test_locked_database_is_said_and_nothing_is_lost(tmp_path, store):
    """Another program that holds the file: a clear word after the time-out."""
    submit(tmp_path, planned("a"))
    with (
        connect(store.path).write(),
        Store.open(timeout_s=0.05) as other,
        pytest.raises(QueueError, match=r"queue\.db: locked by another program \(waited 0.05 s\)"),
    ):
        other.control.cancel([1])
    assert states() == ["queued"]


def test_backup_needs_no_hard_links(tmp_path, store, monkeypatch):
    """On a stick (exFAT) there are none; there too a file that comes meanwhile is not replaced."""

    def no_links(*_args, **_more):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    store.backup(tmp_path / "a.db")
    assert (tmp_path / "a.db").stat().st_mode & 0o777 == 0o600
    with Store.open(tmp_path / "a.db") as copy:
        assert copy.queries.damage() is None
    copy_to = store._copy_to
    monkeypatch.setattr(store, "_copy_to", lambda to: (copy_to(to), other.write_text("mine")))
    other = tmp_path / "b.db"
    with pytest.raises(UsageError, match=r"b\.db: exists"):
        store.backup(other)
    assert other.read_text() == "mine"


def test_backup_is_whole_and_never_overwrites(tmp_path, store):
    """A copy made while the queue is in use opens as a queue of its own."""
    submit(tmp_path, planned("a"))
    claim(store)
    target = tmp_path / "backup.db"
    store.backup(target)
    assert target.stat().st_mode & 0o777 == 0o600
    with Store.open(target) as copy:
        assert [str(r.state) for r in copy.queries.runs()] == ["running"]
    with pytest.raises(UsageError, match=r"backup\.db: exists"):
        store.backup(target)


def test_reader_is_not_blocked_by_a_long_submit(tmp_path, store):
    """`status` answers while somebody else's submit is still being made."""
    submit(tmp_path, planned("a"))
    making, go_on = threading.Event(), threading.Event()

    def make(name):
        making.set()
        assert go_on.wait(30)
        return plan_of(tmp_path, planned("b"), name=name)

    def add():
        with Store.open() as mine:
            mine.submissions.add_sweep("t", make)

    thread = threading.Thread(target=add)
    thread.start()
    assert making.wait(30)
    assert states() == ["queued"]
    go_on.set()
    thread.join(30)
    assert states() == ["queued", "queued"]
