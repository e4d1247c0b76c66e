"""Locks between real processes."""

import fcntl
import subprocess
import sys

import pytest

from orchestrator.errors import QueueError
from orchestrator.system.locks import is_held, try_lock

_SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def test_second_holder_is_refused_until_the_first_lets_go(tmp_path):
    """One at a time, and the file stays."""
    path = tmp_path / "x.lock"
    assert not is_held(path)
    with try_lock(path) as lock:
        lock.write("me")
        assert is_held(path)
        assert try_lock(path) is None
        assert path.read_text() == "me"
    assert not is_held(path)
    assert path.exists()


def test_child_that_inherits_the_descriptor_holds_the_lock(tmp_path):
    """The lock outlives the one who took it, and ends with the child, however it dies."""
    path = tmp_path / "x.lock"
    lock = try_lock(path)
    child = subprocess.Popen(_SLEEP, pass_fds=(lock.fd,), stdout=subprocess.PIPE)
    child.stdout.readline()
    lock.release()
    assert is_held(path)
    child.kill()
    child.wait()
    child.stdout.close()
    assert not is_held(path)


def test_child_that_is_not_given_it_does_not_hold_it(tmp_path):
    """The worker's own lock must not ride along in a trainer."""
    path = tmp_path / "x.lock"
    lock = try_lock(path)
    child = subprocess.Popen(_SLEEP, stdout=subprocess.PIPE)
    child.stdout.readline()
    lock.release()
    assert not is_held(path)
    child.kill()
    child.wait()
    child.stdout.close()


def test_waiting_gets_the_lock_that_is_let_go(tmp_path):
    """A holder of an instant does not turn a worker away."""
    path = tmp_path / "x.lock"
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path\n"
            "from orchestrator.system.locks import try_lock\n"
            "with try_lock(Path(sys.argv[1])): print('up', flush=True); time.sleep(0.3)",
            str(path),
        ],
        stdout=subprocess.PIPE,
    )
    child.stdout.readline()
    assert is_held(path)
    lock = try_lock(path, wait_s=30)
    assert lock is not None
    lock.release()
    child.wait()
    child.stdout.close()


def test_lock_that_cannot_be_made_is_said(tmp_path):
    """A missing folder: the path and the reason."""
    with pytest.raises(QueueError, match=r"none/x\.lock: the lock cannot be made: No such file"):
        try_lock(tmp_path / "none" / "x.lock")


def test_missing_file_is_not_held_and_not_made(tmp_path):
    """Asking leaves no trace."""
    assert not is_held(tmp_path / "x.lock")
    assert not (tmp_path / "x.lock").exists()


def test_two_who_ask_at_once_do_not_take_each_other_for_a_holder(tmp_path, monkeypatch):
    """A second asker, while the first has the file: a dead worker would count as alive."""
    path = tmp_path / "x.lock"
    with try_lock(path):
        pass
    real, answers = fcntl.flock, []

    def ask_meanwhile(fd, how):
        real(fd, how)
        monkeypatch.setattr(fcntl, "flock", real)
        answers.append(is_held(path))

    monkeypatch.setattr(fcntl, "flock", ask_meanwhile)
    assert not is_held(path)
    assert answers == [False]
