"""Which other processes keep the GPU or the processors busy: named where a run has become slow.

macOS counts what each process has had of the GPU, and ioreg(8) prints it; nvidia-smi(1) names who
holds memory of an NVIDIA GPU. The texts are read here and tested; that they come so from a Mac or
from such a GPU is not proven here.
"""

import os
import plistlib
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from xml.parsers.expat import ExpatError

# As a property list, with the clients of the driver below it: no class of its own is matched, as
# clients are no registered services.
_IOREG = ("/usr/sbin/ioreg", "-l", "-a", "-r", "-c", "IOAccelerator")
_NVIDIA = ("--query-compute-apps=pid,process_name,used_memory", "--format=csv,noheader,nounits")
_LIMIT_S = 10.0

# Less of it than this hardly slows a run.
_SHARE = 0.2
_MOST = 3


@dataclass(frozen=True)
class GpuTime:
    """What a process has had of the GPU since it opened it."""

    name: str
    ns: int


def busy_others(pids: Collection[int], seconds: float = 1.0, platform: str = sys.platform) -> str:
    """Who else keeps the machine busy, watched for some seconds; empty where nobody does.

    Left out are the trainers `pids` and this process, with their children. Nothing where the system
    does not answer.
    """
    own = family(pids)
    if platform == "darwin":
        before = read_gpu_times(_output(_IOREG))
        time.sleep(seconds)
        return busy_text(before, read_gpu_times(_output(_IOREG)), seconds, own)
    if (program := shutil.which("nvidia-smi")) is not None:
        return memory_text(_output((program, *_NVIDIA)).decode(errors="replace"), own)
    return _busy_processors(seconds, own)


def _output(words: tuple[str, ...]) -> bytes:
    try:
        return subprocess.run(
            words, capture_output=True, timeout=_LIMIT_S, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return b""


def family(pids: Collection[int]) -> set[int]:
    """These processes and this one, with all their children: none of them is another program."""
    import psutil  # Not at the top: a status comes sooner without it.

    found: set[int] = set()
    for one in (os.getpid(), *pids):
        try:
            found |= {one, *(child.pid for child in psutil.Process(one).children(recursive=True))}
        except psutil.Error:
            continue
    return found


# --- the GPU of a Mac


def read_gpu_times(document: bytes) -> dict[int, GpuTime]:
    """What ioreg(8) prints as a property list: the time of the GPU by process; empty if other."""
    try:
        found = plistlib.loads(document)
    except (plistlib.InvalidFileException, ExpatError, ValueError, OverflowError):
        return {}
    times: dict[int, GpuTime] = {}
    for client in _clients(found):
        pid, _, name = client["IOUserClientCreator"].removeprefix("pid ").partition(",")
        usage = client["AppUsage"]
        ns = sum(int(one.get("accumulatedGPUTime", 0)) for one in usage if isinstance(one, dict))
        if pid.strip().isdecimal():
            had = times.get(int(pid), GpuTime("", 0)).ns
            times[int(pid)] = GpuTime(name.strip(), had + ns)
    return times


def _clients(found: Any) -> Iterator[Mapping[str, Any]]:
    """Every entry, however deep, that says who has opened the GPU and what it has had of it."""
    if isinstance(found, list):
        for entry in found:
            yield from _clients(entry)
    elif isinstance(found, dict):
        creator, usage = found.get("IOUserClientCreator"), found.get("AppUsage")
        if isinstance(creator, str) and isinstance(usage, list):
            yield found
        for entry in found.values():
            yield from _clients(entry)


def busy_text(
    before: Mapping[int, GpuTime], after: Mapping[int, GpuTime], seconds: float, own: Container[int]
) -> str:
    """`Blender (pid 7) uses 63% of the GPU`: who had a fifth of it or more between two looks."""
    shares = [
        ((now.ns - before[pid].ns) / (seconds * 1e9), now.name, pid)
        for pid, now in after.items()
        if pid in before and pid not in own
    ]
    return _text(shares, "the GPU")


def _text(shares: list[tuple[float, str, int]], what: str) -> str:
    busy = sorted((one for one in shares if one[0] >= _SHARE), reverse=True)[:_MOST]
    return ", ".join(f"{name} (pid {pid}) uses {share:.0%} of {what}" for share, name, pid in busy)


# --- an NVIDIA GPU


def memory_text(table: str, own: Container[int]) -> str:
    """`python (pid 7) holds 3.1 GB of the GPU's memory`: by what nvidia-smi(1) prints."""
    held = []
    for line in table.splitlines():
        pid, _, rest = line.partition(",")
        name, _, megabytes = rest.rpartition(",")
        if pid.strip().isdecimal() and megabytes.strip().isdecimal() and int(pid) not in own:
            held.append((int(megabytes), name.strip().rpartition("/")[2], int(pid)))
    return ", ".join(
        f"{name} (pid {pid}) holds {size / 1024:.1f} GB of the GPU's memory"
        for size, name, pid in sorted(held, reverse=True)[:_MOST]
    )


# --- processors


def _busy_processors(seconds: float, own: Container[int]) -> str:
    import psutil  # Not at the top: a status comes sooner without it.

    watched = []
    for process in psutil.process_iter(["name"]):
        if process.pid not in own:
            watched.append((process, _cpu_percent(process)))
    time.sleep(seconds)
    shares = [
        (_cpu_percent(process) / 100, str(process.info["name"]), process.pid)
        for process, _ in watched
    ]
    return _text(shares, "a processor")


def _cpu_percent(process: Any) -> float:
    """Since the last call for this process; 0 at the first, and where it has ended."""
    import psutil  # Not at the top: a status comes sooner without it.

    try:
        return float(process.cpu_percent())
    except psutil.Error:
        return 0.0
