"""Who else keeps the machine busy: what the systems' tools print, and who of them is named."""

import os
import plistlib
import subprocess
import sys

import psutil
import pytest

from orchestrator.system import load
from orchestrator.system.load import GpuTime, busy_others, busy_text, memory_text, read_gpu_times


def client(creator, *times):
    """A client of the driver, as ioreg(8) prints it."""
    usage = [{"API": "Metal", "accumulatedGPUTime": ns, "lastSubmittedTime": 1} for ns in times]
    return {"IOObjectClass": "AGXDeviceUserClient", "IOUserClientCreator": creator,
            "AppUsage": usage}  # fmt: skip


def ioreg(*clients):
    driver = {"IOObjectClass": "AGXAcceleratorG16X", "PerformanceStatistics": {},
              "IORegistryEntryChildren": list(clients)}  # fmt: skip
    return plistlib.dumps([driver])


def test_the_time_of_the_gpu_is_read_by_process():
    """Each program may have several clients, each client several interfaces."""
    text = ioreg(
        client("pid 412, WindowServer", 5, 7),
        client("pid 900, Google Chrome He", 1),
        client("pid 412, WindowServer", 30),
        client("pid 7, idle"),
        {"IOObjectClass": "IOSurfaceRootUserClient", "IOUserClientCreator": "pid 9, other"},
    )
    assert read_gpu_times(text) == {
        412: GpuTime("WindowServer", 42),
        900: GpuTime("Google Chrome He", 1),
        7: GpuTime("idle", 0),
    }


@pytest.mark.parametrize(
    "text", [b"", b"ioreg: no such option", b"<plist><array>", plistlib.dumps({"a": ["b", 3]})]
)
def test_another_text_names_nobody(text):
    """A later macOS may print something else."""
    assert read_gpu_times(text) == {}


def test_who_had_a_fifth_of_the_gpu_is_named():
    """Between two looks half a second apart; not the trainer, nor who has just come."""
    before = {pid: GpuTime(name, 10**9) for pid, name in ((1, "a"), (2, "b"), (3, "c"), (4, "us"))}
    after = {
        1: GpuTime("a", 10**9 + 150_000_000),
        2: GpuTime("b", 10**9 + 90_000_000),
        3: GpuTime("c", 10**9 + 400_000_000),
        4: GpuTime("us", 2 * 10**9),
        5: GpuTime("new", 10**12),
    }
    assert busy_text(before, after, 0.5, {4}) == (
        "c (pid 3) uses 80% of the GPU, a (pid 1) uses 30% of the GPU"
    )
    assert busy_text(before, before, 0.5, {4}) == ""


def test_who_holds_the_memory_of_an_nvidia_gpu_is_named():
    """Largest first, the program without its path; a container may not be told the size."""
    table = "31, /usr/bin/python3, 2048\n4, us, 9000\n77, /opt/a, b/game, 512\n9, x, [N/A]\n"
    assert memory_text(table, {4}) == (
        "python3 (pid 31) holds 2.0 GB of the GPU's memory, "
        "game (pid 77) holds 0.5 GB of the GPU's memory"
    )
    assert memory_text("No devices were found\n", set()) == ""


class Process:
    """A process that keeps processors busy; the first look knows nothing yet, as psutil's."""

    def __init__(self, pid, name, *percent):
        self.pid, self.info, self._percent = pid, {"name": name}, [0.0, *percent]

    def cpu_percent(self):
        """Since the last call; psutil's error once it has ended."""
        if not self._percent:
            raise psutil.NoSuchProcess(self.pid)
        return self._percent.pop(0)


def test_a_process_that_computes_is_named_and_the_trainer_is_not(monkeypatch):
    """Where the processors train: neither who does little nor who has ended meanwhile."""
    monkeypatch.setenv("PATH", "")
    us = psutil.Process().pid
    others = [Process(us, "us", 90.0), Process(7, "cc1plus", 180.0), Process(8, "idle", 19.0),
              Process(9, "gone"), Process(10, "ffmpeg", 21.4)]  # fmt: skip
    monkeypatch.setattr(psutil, "process_iter", lambda names: iter(others))
    assert busy_others([], 0.0, "linux") == (
        "cc1plus (pid 7) uses 180% of a processor, ffmpeg (pid 10) uses 21% of a processor"
    )


# A child that has one itself: says its pid, and waits for its stdin.
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "input()"])
print(child.pid, flush=True)
child.wait()
"""


@pytest.fixture
def trainer():
    """The pids of a process and of its child."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", _PARENT], text=True, **pipes) as parent:
        yield parent.pid, int(parent.stdout.readline())


def test_what_a_worker_has_started_is_no_other_program(trainer):
    """The trainers and standbys of its other slots, with their children."""
    assert {psutil.Process().pid, *trainer} <= load.family([])


def test_trainers_that_an_earlier_worker_has_started_are_no_other_programs():
    """They are no children of this worker, as here its parent; and one may have ended meanwhile."""
    other = os.getppid()
    assert other not in load.family([])
    assert other in load.family([2**31 - 1, other])


def test_a_mac_whose_tools_do_not_answer_names_nobody(monkeypatch):
    """As here, where there is no ioreg(8)."""
    assert busy_others([], 0.0, "darwin") == ""
