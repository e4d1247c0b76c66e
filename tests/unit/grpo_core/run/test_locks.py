"""The lock is one process's at a time, free when it dies, and says who holds it."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grpo_core.errors import ConfigError, Interrupted
from grpo_core.run.locks import (
    Lock,
    acquire,
    gpu_lock,
    gpu_lock_path,
    read_holder,
    write_text,
)
from grpo_core.run.signals import StopFlag
from tests.queue_kit import eventually

HOLD = """
import sys, time
from pathlib import Path
from grpo_core.run.locks import Lock
lock = Lock(Path(sys.argv[1]), "a test run")
assert lock.try_acquire()
{more}
print("held", flush=True)
time.sleep(600)
"""

WAIT = """
import sys
from pathlib import Path
from grpo_core.errors import Interrupted
from grpo_core.run.locks import Lock, acquire
from grpo_core.run.signals import StopFlag
stop = StopFlag().install()
try:
    acquire(Lock(Path(sys.argv[1]), "one that waits"), "the GPU", stop.wait)
except Interrupted as e:
    print(e)
    sys.exit(75)
print("got it")
"""


def never(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@pytest.fixture
def start():
    """Start a Python child; it is killed at the end of the test."""
    children = []

    def begin(code, *args):
        child = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, args)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        children.append(child)
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def held(start, tmp_path):
    """A lock that another process holds: its path and the process."""
    path = tmp_path / "gpu.lock"
    child = start(HOLD.format(more=""), path)
    assert child.stdout.readline() == "held\n"
    return path, child


def test_second_process_does_not_get_it(held):
    """And it reads who has it."""
    path, child = held
    assert not Lock(path, "us").try_acquire()
    who = read_holder(path)
    assert (who.pid, who.what) == (child.pid, "a test run")
    assert who.since.startswith("20")


def test_killed_holder_frees_it_at_once(held):
    """kill -9: no clean-up of ours can have helped."""
    path, child = held
    child.kill()
    child.wait()
    assert Lock(path, "us").try_acquire()
    assert read_holder(path).pid == os.getpid()


def test_forked_child_does_not_keep_it(start, tmp_path):
    """The holder dies, its forked child lives on: the lock is free."""
    path = tmp_path / "gpu.lock"
    fork = "import os\nif not (pid := os.fork()): time.sleep(600)\nprint(pid)"
    child = start(HOLD.format(more=fork), path)
    forked = int(child.stdout.readline())
    try:
        child.kill()
        child.wait()
        # The fork may not have come to drop it before its parent was killed.
        assert eventually(Lock(path, "us").try_acquire)
    finally:
        os.kill(forked, signal.SIGKILL)


def test_waiter_says_who_holds_it_and_gets_it_next(held, start):
    """One line that names pid and run; then the lock itself."""
    path, child = held
    waiter = start(WAIT, path)
    line = waiter.stderr.readline()
    assert line.startswith(f"[lock] waiting for the GPU, held by pid {child.pid} (a test run)")
    child.kill()
    out, _ = waiter.communicate(timeout=30)
    assert (waiter.returncode, out) == (0, "got it\n")


def test_waiter_ends_on_sigterm(held, start):
    """Exit 75 though the lock is never freed."""
    path, _ = held
    waiter = start(WAIT, path)
    waiter.stderr.readline()
    waiter.send_signal(signal.SIGTERM)
    out, _ = waiter.communicate(timeout=30)
    assert (waiter.returncode, out) == (75, "stopped while waiting for the GPU\n")


def test_without_waiting_it_gives_up_at_once(held):
    """Interrupted, with the holder in the message."""
    path, child = held
    with pytest.raises(Interrupted, match=f"the GPU is held by pid {child.pid}"):
        acquire(Lock(path, "us"), "the GPU", never, wait=False)


def test_pointless_waiting_ends(held):
    """What is waited for can become worthless."""
    path, _ = held
    assert not acquire(Lock(path, "us"), "out", never, pointless=lambda: True)


def test_release_frees_it_and_clears_the_text(tmp_path):
    """Nobody is named who does not hold it."""
    path = tmp_path / "gpu.lock"
    with Lock(path, "us") as lock:
        assert lock.try_acquire()
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert read_holder(path) is None
    assert Lock(path, "them").try_acquire()


def test_removed_file_does_not_make_two_holders(tmp_path, monkeypatch):
    """The file went between open and lock: the lock is taken on the file that others see."""
    path = tmp_path / "gpu.lock"
    import fcntl

    real = fcntl.flock
    removed = []

    def remove_first(fd, how):
        if not removed:
            removed.append(path.unlink())
        return real(fd, how)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    lock = Lock(path, "us")
    assert lock.try_acquire()
    assert not Lock(path, "them").try_acquire()


def test_who_waits_for_a_file_that_is_removed_waits_on(held):
    """Its holder still works; once it is dead the lock is taken on the file that others see."""
    path, child = held
    lock = Lock(path, "us")
    assert not lock.try_acquire()
    path.unlink()
    assert not lock.try_acquire()
    child.kill()
    child.wait()
    assert lock.try_acquire()
    assert read_holder(path).pid == os.getpid()
    assert not Lock(path, "them").try_acquire()


@pytest.mark.parametrize("spoil", ["remove", "replace", "remove the folder"])
def test_the_holder_of_the_gpu_takes_the_file_that_stands_there_instead(
    monkeypatch, tmp_path, spoil
):
    """Whoever comes later is refused, as if nobody had touched it."""
    path = tmp_path / "locks" / "gpu.lock"
    monkeypatch.setenv("GRPO_GPU_LOCK", str(path))
    stop = StopFlag()
    with gpu_lock("us", stop):
        if spoil == "replace":
            (tmp_path / "new").touch()
            (tmp_path / "new").replace(path)
        elif spoil == "remove":
            path.unlink()
        else:
            shutil.rmtree(path.parent)
        eventually(lambda: read_holder(path) is not None)
        assert not Lock(path, "them").try_acquire()
    assert not stop()
    assert Lock(path, "them").try_acquire()


def test_who_is_too_late_to_keep_the_gpu_makes_room(tmp_path):
    """Another process locked the new file first: never do two train for long."""
    path, stop = gpu_lock_path(), StopFlag()
    other = Lock(tmp_path / "other", "them")
    assert other.try_acquire()
    with gpu_lock("us", stop):
        other.path.replace(path)
        eventually(stop)
    with pytest.raises(Interrupted, match=rf"pid {os.getpid()} \(them\) since .* makes room"):
        stop.check()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_torn_text_names_nobody(tmp_path, text):
    """The text is for people; the lock itself is the flock."""
    path = tmp_path / "gpu.lock"
    path.write_text(text)
    assert read_holder(path) is None
    assert read_holder(tmp_path / "missing") is None


def test_lock_that_cannot_be_made_is_a_config_error(tmp_path):
    """A file where the folder should be."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="the lock cannot be made"):
        Lock(tmp_path / "file" / "gpu.lock", "us").try_acquire()


def test_environment_names_the_lock(monkeypatch, tmp_path):
    """For tests; else it is one file for user and machine, whatever the queue."""
    assert gpu_lock_path() == Path(os.environ["GRPO_GPU_LOCK"])
    monkeypatch.delenv("GRPO_GPU_LOCK")
    monkeypatch.setenv("GRPO_SWEEP_HOME", str(tmp_path))
    assert tmp_path not in gpu_lock_path().parents


def test_a_full_disk_leaves_the_text_that_is_there(tmp_path, monkeypatch):
    """A text that cannot be written anew: who holds the lock was known, and stays known."""
    path = tmp_path / "gpu.lock"
    path.write_text('{"pid": 7}')

    def full(fd, content, at):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    fd = os.open(path, os.O_RDWR)
    with pytest.raises(OSError, match="No space"):
        write_text(fd, '{"pid": 8}')
    os.close(fd)
    assert path.read_text() == '{"pid": 7}'


def test_a_shorter_text_is_whole_before_the_file_is_cut(tmp_path, monkeypatch):
    """Whoever reads between the two steps meets no end of the older text."""
    path, seen = tmp_path / "gpu.lock", []
    path.write_text('{"pid": 123456}')
    real = os.ftruncate
    monkeypatch.setattr(
        os,
        "ftruncate",
        lambda fd, size: (seen.append(json.loads(path.read_text())), real(fd, size)),
    )
    fd = os.open(path, os.O_RDWR)
    write_text(fd, '{"pid": 8}')
    os.close(fd)
    assert seen == [{"pid": 8}]
    assert path.read_text() == '{"pid": 8}'


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "gpu.lock"),
        ({"CUDA_VISIBLE_DEVICES": "0"}, "gpu.lock"),
        ({"CUDA_VISIBLE_DEVICES": "0,3"}, "gpu.lock"),
        ({"CUDA_VISIBLE_DEVICES": "3,0"}, "gpu-3.lock"),
        ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-7f/1/0"}, "gpu-MIG-GPU-7f_1_0.lock"),
        ({"CUDA_VISIBLE_DEVICES": "3", "GRPO_GPU_LOCK": "/l/mine.lock"}, "mine.lock"),
    ],
)
def test_each_device_has_a_lock_of_its_own(monkeypatch, environ, name):
    """The first one that a process sees is the one it uses; GRPO_GPU_LOCK has the last word."""
    monkeypatch.setattr("grpo_core.run.locks._machine", lambda: "")
    assert gpu_lock_path(environ).name == name
