"""Telling processes apart, with real ones."""

import os
import subprocess
import sys

import psutil
import pytest

from orchestrator.system import processes
from tests.queue_kit import eventually


@pytest.fixture
def sleeper():
    """A process that only sleeps."""
    with subprocess.Popen(["sleep", "60"], env={**os.environ, "MARK": "m-1"}) as process:
        yield process
        process.kill()


def test_process_is_itself_as_long_as_it_lives(sleeper):
    """The same pid, start and boot; not another start, not another boot, not after its death."""
    started = processes.start_time(sleeper.pid)
    here = processes.boot_id()
    assert processes.is_process(sleeper.pid, started, here)
    assert not processes.is_process(sleeper.pid, started - 10, here)
    assert not processes.is_process(sleeper.pid, started, "another-boot")
    assert not processes.is_process(None, started, here)
    sleeper.kill()
    # Dead and not reaped: kill(pid, 0) would still say that it is there.
    eventually(lambda: not processes.is_process(sleeper.pid, started, here))
    sleeper.wait()
    assert processes.start_time(sleeper.pid) is None


def test_start_time_tells_earlier_from_later(sleeper):
    """A process that started before this test is not the sleeper."""
    assert processes.start_time(os.getpid()) < processes.start_time(sleeper.pid)


def test_start_time_elsewhere_is_the_kernels_own_too(sleeper, monkeypatch):
    """psutil's `create_time()` moves with corrections of the clock; a healthy trainer would die."""
    before = processes.start_time_by_psutil(sleeper.pid)
    assert before == processes.start_time(sleeper.pid)
    boot_time = psutil._psplatform.boot_time()
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: boot_time + 7.0)
    assert psutil.Process(sleeper.pid).create_time() - psutil.boot_time() == pytest.approx(before)
    assert processes.start_time_by_psutil(sleeper.pid) == before
    sleeper.kill()
    eventually(lambda: processes.start_time_by_psutil(sleeper.pid) is None)
    sleeper.wait()
    assert processes.start_time_by_psutil(sleeper.pid) is None


def test_boot_id_can_be_imitated(monkeypatch):
    """Real ones are stable; a test may name another."""
    real = processes.boot_id()
    assert real and processes.boot_id() == real
    monkeypatch.setenv(processes.ENV_BOOT_ID, "x")
    assert processes.boot_id() == "x"


def test_session_is_found_by_its_environment():
    """A process whose pid nobody wrote down, told from others by what it carries."""
    env = {**os.environ, "MARK": "m-2"}
    with subprocess.Popen(["sleep", "60"], env=env, start_new_session=True) as process:
        # The environment is there once the program is.
        assert eventually(lambda: processes.find_session("MARK", "m-2")) == process.pid
        assert processes.find_session("MARK", "m-3") is None
        process.kill()


def test_signals_to_what_is_gone_are_nothing():
    """No error for a process or group that has ended meanwhile."""
    process = subprocess.Popen(["true"], start_new_session=True)
    process.wait()
    processes.signal_process(process.pid, processes.signal.SIGTERM)
    processes.signal_group(process.pid, processes.signal.SIGTERM)


def test_memory_witness_sees_kills_of_the_kernel():
    """A counter that went up while we watched is the proof; an old count is not."""
    counts = iter([5, 5])
    assert processes.MemoryWitness(7, lambda: next(counts)).evidence() is None
    counts = iter([5, 6])
    assert (
        "oom_kill went from 5 to 6" in processes.MemoryWitness(7, lambda: next(counts)).evidence()
    )


def test_memory_witness_sees_that_nothing_was_left(monkeypatch):
    """Where the system counts no kills, the last look at the memory is the proof."""
    witness = processes.MemoryWitness(7, lambda: None)
    assert witness.evidence() is None
    memory = psutil.virtual_memory()._replace(total=1000, available=10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    witness.look()
    assert witness.evidence() == "1.0% of the memory was left just before"


def test_little_memory_names_who_has_the_rest(monkeypatch):
    """The largest processes, by name and pid; nothing where there is enough."""
    real = psutil.virtual_memory()
    memory = real._replace(available=int(0.5 * real.total))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    assert processes.low_memory() is None
    memory = memory._replace(available=int(0.01 * memory.total))
    assert "memory is free; largest: " in processes.low_memory()
    assert processes.low_memory().count("(pid ") == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own counters")
def test_kernel_counts_its_kills():
    """The counter is read where there is one."""
    assert processes.oom_kills() >= 0
