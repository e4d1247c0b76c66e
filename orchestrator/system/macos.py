"""What macOS says of its memory, and what it does to files: whom it kills, syncs and hides.

xnu ends the largest process with SIGKILL while `vm_stat` and psutil still show memory as available;
iCloud marks what lies in a folder with a dot as hidden. The texts are read here and tested; that
they come so from a Mac is not proven here.
"""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_SYSCTL = "/usr/sbin/sysctl"
_NAMES = ("kern.memorystatus_level", "kern.memorystatus_vm_pressure_level", "vm.swapusage")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}

# Where macOS reports whom it has killed; the second one is an administrator's.
REPORTS = (
    Path(os.path.expanduser("~/Library/Logs/DiagnosticReports")),
    Path("/Library/Logs/DiagnosticReports"),
)

# Of kern.memorystatus_level, in percent: from here on xnu looks for something to kill.
_SHORT_PERCENT = 5
# kern.memorystatus_vm_pressure_level: 1 normal, 2 warning, 4 critical.
_WARNING, _CRITICAL = 2, 4


@dataclass(frozen=True)
class Pressure:
    """The kernel's view: percent that are left, its level of pressure, and bytes of swap in use."""

    percent: int
    level: int
    swap_bytes: int

    @property
    def is_low(self) -> bool:
        """Whether the kernel warns."""
        return self.level >= _WARNING

    @property
    def is_out(self) -> bool:
        """Whether the kernel kills, or is about to."""
        return self.level >= _CRITICAL or self.percent < _SHORT_PERCENT

    def __str__(self) -> str:
        name = {1: "normal", 2: "warning", 4: "critical"}.get(self.level, str(self.level))
        swap = f"{self.swap_bytes / 2**30:.1f} GB of swap"
        return f"macOS had {self.percent}% of its memory left, pressure {name}, {swap}"


def pressure(platform: str = sys.platform) -> Pressure | None:
    """The pressure now; None on another system, or where sysctl(8) says something else."""
    if platform != "darwin":
        return None
    done = subprocess.run([_SYSCTL, *_NAMES], capture_output=True, text=True, check=False)
    return read_pressure(done.stdout)


def read_pressure(text: str) -> Pressure | None:
    """What sysctl(8) prints for the three names; None where one is missing."""
    level = re.search(r"memorystatus_level: (\d+)", text)
    pressed = re.search(r"memorystatus_vm_pressure_level: (\d+)", text)
    swap = re.search(r"used = ([\d.]+)([KMGT])", text)
    if level is None or pressed is None or swap is None:
        return None
    return Pressure(int(level[1]), int(pressed[1]), round(float(swap[1]) * _UNITS[swap[2]]))


def killed_for_memory(pid: int, since: float, folders: Iterable[Path] = REPORTS) -> str | None:
    """The report that macOS killed this process for memory after `since` (seconds, epoch)."""
    for folder in folders:
        for path in _reports(folder, since):
            try:
                reason = read_report(path.read_text(encoding="utf-8", errors="replace"), pid)
            except OSError:
                continue  # An administrator's: the kernel's pressure is left as evidence.
            if reason is not None:
                return f"{path.name}: macOS killed pid {pid}: {reason}"
    return None


def _reports(folder: Path, since: float) -> list[Path]:
    try:
        return [path for path in folder.glob("JetsamEvent-*") if path.stat().st_mtime >= since]
    except OSError:
        return []


def read_report(text: str, pid: int) -> str | None:
    """Why that process was killed, by a JetsamEvent report: a line of JSON, then a document.

    Each process is listed, but only those that were killed have a reason.
    """
    try:
        document = json.loads(text.partition("\n")[2])
        listed = document["processes"]
    except (ValueError, KeyError, TypeError):
        return None
    for process in listed if isinstance(listed, list) else []:
        if isinstance(process, dict) and process.get("pid") == pid and process.get("reason"):
            return str(process["reason"])
    return None


# --- files

# Below the home folder: iCloud Drive, and what other services keep in step.
_SYNCED = (Path("Library/Mobile Documents"), Path("Library/CloudStorage"))
# In step where the user has chosen so; iCloud Drive shows them then.
_MAYBE_SYNCED = (Path("Desktop"), Path("Documents"))
_ICLOUD_DRIVE = Path("Library/Mobile Documents/com~apple~CloudDocs")


def is_synced(path: Path, home: Path) -> bool:
    """Whether a folder of that user lies where iCloud or another service keeps it in step."""
    if any(path.is_relative_to(home / folder) for folder in _SYNCED):
        return True
    return any(
        path.is_relative_to(home / folder) and (home / _ICLOUD_DRIVE / folder).exists()
        for folder in _MAYBE_SYNCED
    )


def is_hidden(path: Path) -> bool:
    """Whether the Finder's flag "hidden" is set (chflags(1)); never on another system."""
    return bool(getattr(path.lstat(), "st_flags", 0) & stat.UF_HIDDEN)
