"""What identifies a process, and how it is ended: boot, identity, groups, and what memory was left.

A pid alone means nothing after a reboot or a long night: a process is its pid, its start time and
the boot in which it lives. Signals go to whole groups, or a trainer's children would survive it.

psutil is loaded where it is used: a status, which comes sooner without it, only asks for the boot.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container
from functools import cache
from pathlib import Path

from orchestrator.system import macos

# For tests only: imitates a reboot.
ENV_BOOT_ID = "GRPO_SWEEP_BOOT_ID"


@cache
def _system_boot_id() -> str:
    if sys.platform == "darwin":
        printed = subprocess.run(
            ["/usr/sbin/sysctl", "-n", "kern.bootsessionuuid"], capture_output=True, text=True
        )
        return printed.stdout.strip()
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def boot_id() -> str:
    """Changes with every start of the machine."""
    return os.environ.get(ENV_BOOT_ID) or _system_boot_id()


def start_time(pid: int) -> float | None:
    """When a process started, in seconds: since boot on Linux, since the epoch elsewhere.

    None for a process that does not exist, or is dead and waits to be reaped. It is the kernel's
    own note, so that a clock that is set anew does not change what a process is.
    """
    if sys.platform != "linux":
        return start_time_by_psutil(pid)
    fields = _stat_fields(pid)
    if fields is None or fields[0] in "ZX":
        return None
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def start_time_by_psutil(pid: int) -> float | None:
    """As `start_time`, for the systems without /proc."""
    import psutil  # Not at the top: see the opening.

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # The public `create_time()` is shifted by each correction of the clock since psutil 7.1.
        return float(process._proc.create_time(monotonic=True))
    except psutil.Error:
        return None


def _stat_fields(pid: int) -> list[str] | None:
    """What proc(5) says of a process, from its state (the 3rd field) on: the start is the 22nd."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in brackets may hold blanks and brackets.
    return stat.rpartition(")")[2].split()


def is_process(pid: int | None, started: float | None, boot: str) -> bool:
    """Whether the process of that pid, start time and boot still lives."""
    if pid is None or started is None or boot != boot_id():
        return False
    now = start_time(pid)
    return now is not None and abs(now - started) < 0.005


def is_stopped(pid: int) -> bool:
    """Whether a process is suspended (SIGSTOP, Ctrl-Z)."""
    if sys.platform != "linux":
        return _is_stopped_by_psutil(pid)
    fields = _stat_fields(pid)
    return fields is not None and fields[0] in "Tt"


def _is_stopped_by_psutil(pid: int) -> bool:
    import psutil  # Not at the top: see the opening.

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def signal_process(pid: int, number: signal.Signals) -> None:
    """Signal one process; nothing if it is gone."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def signal_group(pgid: int, number: signal.Signals) -> None:
    """Signal every process of a group; nothing if it is gone.

    macOS answers EPERM for a group of which only zombies are left.
    """
    try:
        os.killpg(pgid, number)
    except (ProcessLookupError, PermissionError):
        return


def find_session(name: str, value: str) -> int | None:
    """The session (the pid of its leader, dead or alive) of a process with `name=value` in its
    environment, if there is one.
    """
    import psutil  # Not at the top: see the opening.

    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value:
                return os.getsid(process.pid)
        except (psutil.Error, OSError):
            continue
    return None


def kill_carriers(name: str, values: Container[str]) -> None:
    """Kill every process that has `name` with one of these values in its environment, but us.

    That reaches a child that has left its parent's group, as `setsid` makes it.
    """
    import psutil  # Not at the top: see the opening.

    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(name) in values:
                process.kill()
        except (psutil.Error, OSError):
            continue


# --- memory: was a SIGKILL the system's?

_SHORT = 0.03
# To ask macOS takes a process.
_PRESSURE_S = 5.0


class MemoryWitness:
    """Watches, while a trainer runs, whether the system ran out of memory."""

    def __init__(self, pid: int | None, kills: Callable[[], int | None] | None = None) -> None:
        self._pid = pid
        self._kills = kills or oom_kills
        self._before = self._kills()
        self._least = 1.0
        self._pressure: macos.Pressure | None = None
        self._since = time.time()
        self._pressed = float("-inf")

    def look(self) -> None:
        """Note how much memory is left."""
        import psutil  # Not at the top: see the opening.

        memory = psutil.virtual_memory()
        self._least = memory.available / memory.total
        if time.monotonic() - self._pressed >= _PRESSURE_S:
            self._pressed = time.monotonic()
            self._pressure = macos.pressure()

    def evidence(self) -> str | None:
        """What shows that the system was out of memory; None when nothing does."""
        after = self._kills()
        if self._before is not None and after is not None and after > self._before:
            return f"the kernel killed for memory: oom_kill went from {self._before} to {after}"
        if self._pid is not None and (report := macos.killed_for_memory(self._pid, self._since)):
            return report
        if self._pressure is not None:
            return f"{self._pressure} just before" if self._pressure.is_out else None
        if self._least < _SHORT:
            return f"{self._least:.1%} of the memory was left just before"
        return None


def oom_kills() -> int | None:
    """How many processes the kernel has killed for memory, where it counts them (Linux)."""
    counts = [_counter(Path("/proc/vmstat")), _counter(Path("/sys/fs/cgroup/memory.events"))]
    known = [n for n in counts if n is not None]
    return sum(known) if known else None


def _counter(path: Path, name: str = "oom_kill") -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = (line.split() for line in lines)
    return next((int(f[1]) for f in found if len(f) == 2 and f[0] == name), None)


# Below this share of free memory a launch names who has the rest: macOS begins to swap there.
_LOW = 0.15


def is_memory_low() -> bool:
    """Whether little memory is left: on macOS as the kernel has it, else by what is available."""
    import psutil  # Not at the top: see the opening.

    if (pressed := macos.pressure()) is not None:
        return pressed.is_low
    memory = psutil.virtual_memory()
    return bool(memory.available < _LOW * memory.total)


def low_memory() -> str | None:
    """Who holds the memory, where little of it is left; None where there is enough."""
    import psutil  # Not at the top: see the opening.

    if not is_memory_low():
        return None
    memory = psutil.virtual_memory()
    held = []
    for process in psutil.process_iter(["name", "memory_info"]):
        if (info := process.info["memory_info"]) is not None:
            held.append((info.rss, process.info["name"], process.pid))
    largest = ", ".join(
        f"{name} (pid {pid}, {_gb(rss)})" for rss, name, pid in sorted(held)[:-4:-1]
    )
    return f"only {_gb(memory.available)} of {_gb(memory.total)} memory is free; largest: {largest}"


def _gb(size: float) -> str:
    return f"{size / 2**30:.1f} GB"
