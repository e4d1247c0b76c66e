"""Whoever holds the queue, and a disk that is full: the worker waits, says so once, and goes on."""

import os
import resource
import signal
import sqlite3
from contextlib import closing, contextmanager

import pytest

from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.worker.serving import worker_alive
from orchestrator.worker.worker import tidy, work
from tests.queue_kit import (
    FAKE,
    attempts,
    eventually,
    is_alive,
    planned,
    states,
    submit,
    trainers_started,
    updates_logged,
)
from tests.queue_kit import runs as all_runs


@contextmanager
def open_transaction(_worker):
    """Another program that has begun to write and does not end."""
    with closing(sqlite3.connect(home().db, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


@contextmanager
def half_read_select(_worker):
    """A program that may only read: it has taken one row of many, and looks at it."""
    with closing(sqlite3.connect(f"file:{home().db}?mode=ro", uri=True)) as other:
        cursor = other.execute("SELECT a.id FROM runs a, runs b, runs c, runs d, runs e")
        cursor.fetchone()
        yield
        cursor.close()


@contextmanager
def full_disk(worker):
    """The worker's writes fail but for short ones, such as its log; the trainer's do not."""
    hard = resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (8192, hard))
    yield
    resource.prlimit(worker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


HOLDERS = [open_transaction, half_read_select, full_disk]


def said(worker):
    """What the worker says of the queue that it cannot use, and that it can again."""
    texts = [event["text"] for event in worker.events("waiting")]
    return [t for t in texts if "tries again" in t or "used again" in t]


@pytest.fixture(autouse=True)
def rollback_journal(monkeypatch):
    """Where a reader keeps the writer out; under WAL it does not."""
    monkeypatch.setattr("orchestrator.queue.connection.wal_is_safe", lambda: False)


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_trainer_that_ends_meanwhile_is_recorded_later(tmp_path, start, hold):
    """Every run is completed once, in one attempt, each update logged once."""
    submit(tmp_path, planned("a", updates=30), planned("b"))
    worker = start()
    eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
    eventually(lambda: attempts()[0].pid)
    with hold(worker):
        eventually(lambda: (tmp_path / "out/a/result.json").exists())
        eventually(lambda: said(worker))
        assert worker.process.poll() is None
    assert worker.wait() == 0
    assert states() == ["completed"] * 2
    assert [len(attempts(run.id)) for run in all_runs()] == [1, 1]
    assert updates_logged(all_runs()[0]) == list(range(1, 31))
    again = said(worker)
    assert ["tries again" in text for text in again] == [True, False]


def test_a_worker_that_cannot_claim_waits_and_ends_when_told_to(tmp_path, start):
    """Before the first run as well; a signal is heard within seconds."""
    submit(tmp_path, planned("a"))
    with open_transaction(None):
        worker = start()
        eventually(lambda: said(worker))
        assert worker_alive() == worker.process.pid
        worker.signal(15)
        assert worker.wait() == 75
    assert states() == ["queued"]


def test_what_a_user_asks_is_obeyed_while_others_only_write(tmp_path, start):
    """A reader gets through an open transaction: so does the worker's look at requests."""
    submit(tmp_path, planned("a", updates=1000, update_s=0.05))
    worker = start(until_empty=False)
    eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
    with Store.open() as store:
        store.control.cancel([1])
    with open_transaction(None):
        eventually(lambda: (tmp_path / "out/a/result.json").exists())
    eventually(lambda: states() == ["cancelled"])
    worker.signal(15)
    assert worker.wait() == 75


def test_a_launch_waits_for_room_on_the_disk(tmp_path, start):
    """No attempt is lost to a disk that is full when a run's turn comes."""
    submit(tmp_path, planned("a"))
    log = home().attempt_log(1, 1)
    log.parent.mkdir(parents=True, exist_ok=True)
    os.symlink("/dev/full", log)
    worker = start()
    eventually(lambda: "No space left on device" in "".join(said(worker)))
    log.unlink()
    assert worker.wait() == 0
    assert states() == ["completed"]
    assert len(attempts()) == 1


def stopped_while_locked(tmp_path, kind):
    """A worker here that finds the queue locked from its event `kind` on, and is told to stop."""
    with closing(sqlite3.connect(home().db, isolation_level=None)) as other:

        def listen(event):
            if event.kind == kind:
                eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
                other.execute("BEGIN EXCLUSIVE")
                os.kill(os.getpid(), signal.SIGTERM)

        return work(until_empty=True, on_event=listen, trainer=FAKE, prewarm=False)


@pytest.mark.parametrize("kind", ["started", "adopted"])
def test_a_stop_reaches_the_trainer_of_a_queue_that_is_locked(tmp_path, start, kind):
    """It saves and ends before the worker does; the next worker reads how it ended."""
    submit(tmp_path, planned("a", updates=1000, update_s=0.05))
    if kind == "adopted":
        first = start()
        eventually(lambda: attempts() and attempts()[0].pid)
        first.kill()
    assert stopped_while_locked(tmp_path, kind) == 75
    (pid,) = trainers_started(tmp_path)
    assert not is_alive(pid)
    tidy()
    assert states() == ["queued"]
    assert attempts()[0].outcome == "interrupted"
    assert all_runs()[0].deaths == 0
