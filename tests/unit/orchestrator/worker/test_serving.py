"""Which worker serves the queue: its lock counts, and its text only while that process lives."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from orchestrator.errors import NothingAffected, SweepError, WorkerBusy
from orchestrator.system.locks import FileLock, try_lock
from orchestrator.system.paths import Home
from orchestrator.system.processes import boot_id, start_time
from orchestrator.ui.actions import stop_worker
from orchestrator.worker.serving import (
    NodeStatus,
    ServingWorker,
    is_served,
    serve_alone,
    serving_worker,
    worker_alive,
    worker_to_stop,
)


@pytest.fixture
def own(tmp_path):
    """A home of its own."""
    return Home(tmp_path / "home").make()


@pytest.fixture
def stranger():
    """A living process that is no worker."""
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with subprocess.Popen(words) as process:
        yield process
        process.kill()


def test_the_worker_is_known_while_it_serves(own):
    """By its lock and its text; afterwards the text stays and says nothing."""
    with serve_alone(own):
        assert serving_worker(own) == ServingWorker(os.getpid())
        assert worker_alive(own) == worker_to_stop(own) == os.getpid()
    assert not is_served(own)
    assert (serving_worker(own), worker_alive(own)) == (None, None)
    with pytest.raises(NothingAffected, match="no worker runs"):
        worker_to_stop(own)


def test_the_nodes_of_a_worker_are_told_as_they_come(own):
    """With the slots that they bring; a status of another process reads them."""
    nodes = (NodeStatus("mac", "mini", "metal", 2**34, 1), NodeStatus("box", away_since="2026"))
    with serve_alone(own, []) as serving:
        assert serving_worker(own).slots == ()
        serving.offer(["mac/0"], nodes)
        worker = serving_worker(own)
    assert (worker.slots, worker.nodes) == (("mac/0",), nodes)
    assert worker.pausable == ("mac/0", "mac", "box")


def test_a_worker_of_another_version_is_known_without_its_nodes(own):
    """Two installations may share a queue: a status says what it can read."""
    with serve_alone(own, ["0"]):
        text = json.loads(own.worker_lock.read_text())
        own.worker_lock.write_text(json.dumps(text | {"nodes": [{"name": "mac", "hue": "red"}]}))
        worker = serving_worker(own)
    assert (worker.pid, worker.slots, worker.nodes) == (os.getpid(), ("0",), ())


@pytest.mark.parametrize("changed", [{"pid_started": 1.0}, {"boot_id": "another"}])
def test_a_pid_that_is_another_process_by_now_gets_no_signal(own, stranger, changed):
    """A dead worker's text, while its successor has the lock and has not written yet."""
    started = start_time(stranger.pid)
    text = {"pid": stranger.pid, "pid_started": started, "boot_id": boot_id()}
    with try_lock(own.worker_lock) as lock:
        lock.write(json.dumps(text | changed))
        with pytest.raises(SweepError, match="names no process that lives here"):
            stop_worker(own)
        assert serving_worker(own) == ServingWorker(None)
        assert stranger.poll() is None
        lock.write(json.dumps(text))
        stop_worker(own)
        assert stranger.wait(30) == -signal.SIGTERM


def test_the_worker_keeps_its_place_though_its_lock_is_removed(own):
    """The file anew, with who it is; a second worker is refused as before."""
    with serve_alone(own) as serving:
        assert serving.keep() is None
        shutil.rmtree(own.worker_lock.parent)
        assert "was removed or replaced" in serving.keep()
        assert serving_worker(own) == ServingWorker(os.getpid())
        with pytest.raises(WorkerBusy, match=f"pid {os.getpid()}"), serve_alone(own):
            pass
        assert serving.keep() is None
    assert not is_served(own)


def test_a_worker_whose_place_another_took_ends(own, tmp_path):
    """Never do two serve one queue for long."""
    other = tmp_path / "other.lock"
    with serve_alone(own) as serving, try_lock(other):
        other.replace(own.worker_lock)
        with pytest.raises(WorkerBusy, match="another worker took its place"):
            serving.keep()


def test_a_worker_that_could_not_write_who_it_is_still_serves(own, monkeypatch):
    """The disk was full when it started: it is not taken for none."""

    def full(self, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(FileLock, "write", full)
    with serve_alone(own):
        assert is_served(own)
        assert serving_worker(own) == ServingWorker(None)
        with pytest.raises(SweepError, match="found the disk full"):
            worker_to_stop(own)
