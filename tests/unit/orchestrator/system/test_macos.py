"""What macOS says of its memory, as texts."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.system import processes
from orchestrator.system.macos import (
    Pressure,
    is_hidden,
    is_synced,
    killed_for_memory,
    pressure,
    read_pressure,
    read_report,
)

SYSCTL = """kern.memorystatus_level: {percent}
kern.memorystatus_vm_pressure_level: {level}
vm.swapusage: total = 3072.00M  used = {used}  free = 1024.25M  (encrypted)
"""
REPORT = """{"bug_type":"298","timestamp":"2026-11-27 03:00:00.00 +0100"}
{"largestProcess":"python3.12","processes":[
  {"pid":7,"name":"python3.12","rpages":900000,"reason":"vm-pageshortage"},
  {"pid":8,"name":"WindowServer","rpages":90000}
]}
"""


def test_pressure_is_read():
    """Percent, level and swap, in the units that macOS writes."""
    text = SYSCTL.format(percent=42, level=1, used="1536.00M")
    assert read_pressure(text) == Pressure(42, 1, 1536 * 2**20)
    assert read_pressure(SYSCTL.format(percent=3, level=4, used="2.50G")).swap_bytes == 2.5 * 2**30


@pytest.mark.parametrize("text", ["", "kern.memorystatus_level: 42\n", "sysctl: unknown oid\n"])
def test_another_text_is_no_pressure(text):
    """A later macOS may know other names."""
    assert read_pressure(text) is None


@pytest.mark.parametrize(
    ("percent", "level", "low", "out"),
    [(60, 1, False, False), (30, 2, True, False), (30, 4, True, True), (4, 1, False, True)],
)
def test_pressure_is_judged(percent, level, low, out):
    """It warns at 2; it kills at 4, or with less than 5 percent left."""
    found = Pressure(percent, level, 0)
    assert (found.is_low, found.is_out) == (low, out)


def test_other_systems_have_none():
    """No program is started there."""
    assert pressure(platform="linux") is None


def test_report_names_who_was_killed():
    """Others are listed, without a reason."""
    assert read_report(REPORT, 7) == "vm-pageshortage"
    assert read_report(REPORT, 8) is None
    assert read_report(REPORT, 9) is None
    assert read_report("{}\n[]", 7) is None
    assert read_report("torn", 7) is None


def test_only_new_reports_count(tmp_path):
    """A pid comes again; what lay there before says nothing of this process."""
    path = tmp_path / "JetsamEvent-2026-11-27-030000.ips"
    path.write_text(REPORT)
    os.utime(path, (1000, 1000))
    folders = (tmp_path / "none", tmp_path)
    assert killed_for_memory(7, 1001, folders) is None
    found = killed_for_memory(7, 999, folders)
    assert found == f"{path.name}: macOS killed pid 7: vm-pageshortage"


def test_witness_has_the_kernels_word(monkeypatch):
    """The report first; else that the kernel was about to kill; else nothing."""
    now = [Pressure(60, 1, 0)]
    killed = [None]
    monkeypatch.setattr(processes.macos, "pressure", lambda: now[0])
    monkeypatch.setattr(processes.macos, "killed_for_memory", lambda pid, since: killed[0])
    witness = processes.MemoryWitness(7, lambda: None)
    witness.look()
    assert witness.evidence() is None
    now[0] = Pressure(3, 4, 2**31)
    witness = processes.MemoryWitness(7, lambda: None)
    witness.look()
    assert witness.evidence() == (
        "macOS had 3% of its memory left, pressure critical, 2.0 GB of swap just before"
    )
    killed[0] = "JetsamEvent-x: macOS killed pid 7: vm-pageshortage"
    assert witness.evidence() == killed[0]


def test_low_memory_is_the_kernels_warning(monkeypatch):
    """Not what psutil calls available."""
    monkeypatch.setattr(processes.macos, "pressure", lambda: Pressure(30, 2, 0))
    assert processes.is_memory_low()
    assert "largest: " in processes.low_memory()
    monkeypatch.setattr(processes.macos, "pressure", lambda: Pressure(30, 1, 0))
    assert not processes.is_memory_low()


@pytest.mark.parametrize(
    ("folder", "synced"),
    [
        ("Library/Mobile Documents/com~apple~CloudDocs/lessons/.venv", True),
        ("Library/CloudStorage/Dropbox/lessons/venv", True),
        ("Documents/lessons/.venv", True),
        # Not among what iCloud Drive shows: the user keeps it on this Mac alone.
        ("Desktop/lessons/.venv", False),
        ("work/.venv", False),
        ("Documents-of-old/.venv", False),
    ],
)
def test_folders_that_are_kept_in_step_are_known(tmp_path, folder, synced):
    """iCloud Drive, other services, and of Desktop and Documents what the user has chosen."""
    (tmp_path / "Library/Mobile Documents/com~apple~CloudDocs/Documents").mkdir(parents=True)
    assert is_synced(tmp_path / folder, tmp_path) is synced


@pytest.mark.parametrize(("flags", "hidden"), [(0x8000, True), (0x8001, True), (0x40, False)])
def test_the_flag_of_the_finder_is_read(flags, hidden):
    """UF_HIDDEN is 0x8000 (sys/stat.h of macOS); Linux has no flags."""

    class File(type(Path())):
        def lstat(self):
            return SimpleNamespace(st_flags=flags)

    assert is_hidden(File("a.pth")) is hidden
    assert is_hidden(Path(__file__)) is False
