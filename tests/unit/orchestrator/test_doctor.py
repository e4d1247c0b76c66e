"""The doctor: the machine as it is, and what it says where something is wrong."""

import fcntl
import json
import os
import shutil
import sqlite3
import sys
from pathlib import Path

import pytest

from orchestrator import doctor
from orchestrator.cli import main
from orchestrator.doctor import (
    Environment,
    Finding,
    Severity,
    blas_finding,
    device_finding,
    environment_finding,
    notices_text,
    numbers,
    package_finding,
    sqlite_finding,
    step_finding,
    try_notice,
)
from orchestrator.system.paths import home
from orchestrator.worker.notices import command_of_environment
from tests.sweep_kit import add_sweep, planned_run

CHECKS = [
    *("python", "mlx", "mlx-lm", "transformers", "datasets"),
    # Nothing else hides what is installed.
    *(("environment",) if sys.platform == "darwin" else ()),
    *("sqlite", "memory", "disk", "disk of the queue", "queue", "notices", "device"),
    # Where a GPU multiplies, or Accelerate, there is nothing to choose.
    *(("matrix products",) if sys.platform == "linux" else ()),
    "training step",
]


def test_this_machine_is_fit_and_trains_a_step(capfd):
    """Every check in its order, a real update of the embedded model, exit 0, no queue made."""
    assert main(["doctor", "--json"]) == 0
    checks = json.loads(capfd.readouterr().out)["checks"]
    assert [check["name"] for check in checks] == CHECKS
    assert {check["level"] for check in checks} <= {"ok", "warn"}
    step = checks[-1]
    assert step["level"] == "ok"
    assert step["text"].startswith("one update of the embedded model")
    assert not home().root.exists()


@pytest.fixture
def no_children(monkeypatch):
    """Checks that start a trainer are left out: they have a test of their own."""
    monkeypatch.setattr(doctor, "_device", lambda: iter(()))
    monkeypatch.setattr(doctor, "_blas", lambda: iter(()))
    monkeypatch.setattr(doctor, "_step", lambda: iter(()))


def finding(capfd, name):
    """(exit code, the check with this name)."""
    code = main(["doctor", "--json"])
    checks = json.loads(capfd.readouterr().out)["checks"]
    return code, next(check for check in checks if check["name"] == name)


def test_a_queue_is_counted(tmp_path, capfd, no_children):
    """Its runs, and whether a worker serves it."""
    add_sweep(tmp_path, [planned_run("a", 0, {}), planned_run("b", 0, {"lora_rank": 2})])
    code, queue = finding(capfd, "queue")
    assert code == 0
    assert queue["text"] == f"{home().db}: 2 runs, no worker runs"


def test_a_damaged_queue_is_a_failure(tmp_path, capfd, no_children):
    """A page overwritten in the middle, as a failing disk does; exit 1, and what to do."""
    add_sweep(tmp_path, [planned_run(f"r{n}", n, {"lora_rank": n}) for n in range(1, 400)])
    with sqlite3.connect(home().db) as db:
        db.execute("PRAGMA journal_mode = DELETE")
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        size = db.execute("PRAGMA page_size").fetchone()[0]
    db.close()
    with open(home().db, "r+b") as file:
        for page in range(pages // 2, pages // 2 + 8):
            file.seek(page * size)
            file.write(b"\xff" * size)
    code, queue = finding(capfd, "queue")
    assert code == 1
    assert queue["level"] == "fail"
    assert "damaged" in queue["text"]
    assert "restore a backup" in (queue["advice"] or queue["text"])


def test_a_file_that_is_no_database_is_a_failure(capfd, no_children):
    """With the message that every command gives."""
    home().make()
    home().db.write_bytes(b"not a database at all" * 100)
    code, queue = finding(capfd, "queue")
    assert code == 1
    assert "not a SQLite database; move it away to start a new queue" in queue["text"]


def test_a_home_on_a_network_folder_is_a_failure(capfd, no_children, monkeypatch):
    """Locks do not hold there."""
    monkeypatch.setattr(doctor, "network_type", lambda folder: "nfs")
    code, queue = finding(capfd, "queue")
    assert code == 1
    assert "lies on a network folder (nfs)" in queue["text"]
    assert queue["advice"].startswith("set GRPO_SWEEP_HOME to a folder on a local disk")


@pytest.mark.parametrize(
    ("free", "level"), [(2**29, "fail"), (5 * 2**30, "warn"), (50 * 2**30, "ok")]
)
def test_little_room_on_the_disk_is_told(capfd, no_children, monkeypatch, free, level):
    """Below 1 GB no checkpoint fits, below 10 GB a night may not."""
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    code, disk = finding(capfd, "disk")
    assert (code, disk["level"]) == (int(level == "fail"), level)
    assert bool(disk["advice"]) == (level != "ok")


def test_a_gpu_in_use_is_left_alone(capfd):
    """Who holds it, and no step beside it: the trainer's own lock decides."""
    path = os.environ["GRPO_GPU_LOCK"]
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write(json.dumps({"pid": 4242, "what": "run 7", "since": "2026-01-01"}))
        lock.flush()
        code, step = finding(capfd, "training step")
    assert code == 0
    assert step["level"] == "warn"
    assert step["text"] == (
        "not tried: the GPU is held by pid 4242 (run 7) since 2026-01-01; not waiting"
    )


def test_an_mlx_that_cannot_be_loaded_is_a_failure(tmp_path, capfd, monkeypatch):
    """As after a broken upgrade: both checks that need it say why."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")
    (tmp_path / "mlx" / "core.py").write_text("raise ImportError('libmlx.dylib is gone')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    code, device = finding(capfd, "device")
    assert code == 1
    assert device["text"] == "MLX cannot be loaded: ImportError: libmlx.dylib is gone"
    assert device["advice"]


@pytest.mark.parametrize(
    ("name", "version", "level"),
    [
        ("mlx", "0.31.9", "fail"),
        ("mlx", "0.32.0", "warn"),
        ("mlx", "0.32.1", "ok"),
        ("mlx", "0.40.0.dev3", "ok"),
        ("mlx-lm", "0.32.1", "ok"),
    ],
)
def test_versions_with_known_faults_are_told(name, version, level):
    """Metal errors could not be caught before mlx 0.32.1."""
    least = (0, 32)
    found = package_finding(name, version, least)
    assert found.severity == level
    assert (f"pip install -U {name}" in found.advice) == (level != "ok")


def test_a_version_is_its_leading_numbers():
    """Release candidates and local builds among them."""
    assert numbers("0.32.1rc1") == (0, 32, 1)
    assert numbers("5.2.0+cpu") == (5, 2, 0)
    assert numbers("unknown") == ()


SITE = Path("/Users/me/Documents/lessons/.venv/lib/python3.13/site-packages")


@pytest.mark.parametrize(
    ("found", "level", "text", "advice"),
    [
        (
            Environment(SITE, ("_grpo_sweep.pth", "a.pth"), True), "fail",
            f"Python passes over _grpo_sweep.pth, a.pth in {SITE}: hidden by macOS",
            f"unhide with: chflags -R nohidden {SITE}; for good with: python3 -m venv venv, ",
        ),
        (
            Environment(SITE, ("a.pth",), False), "fail",
            f"Python passes over a.pth in {SITE}: hidden by macOS",
            f"unhide with: chflags -R nohidden {SITE}",
        ),
        (
            Environment(SITE, (), True), "warn",
            f"{SITE}: iCloud hides what lies there, and then Python does not find it",
            "make another: python3 -m venv venv, without a dot, in a folder that",
        ),
        (Environment(SITE, (), False), "ok", str(SITE), ""),
        (Environment(Path("/a/venv/lib"), (), True), "ok", "/a/venv/lib", ""),
    ],
)  # fmt: skip
def test_an_install_that_macos_hides_is_told(found, level, text, advice):
    """Before it has vanished, too: below a dot in a folder that iCloud keeps in step."""
    finding = environment_finding(found)
    assert (finding.severity, finding.text) == (level, text)
    assert finding.advice.startswith(advice) and bool(finding.advice) == bool(advice)


@pytest.mark.parametrize(
    ("setting", "platform", "text"),
    [
        (None, "darwin", "on the desktop"),
        ("sh -c 'exit 0'", "darwin", f"on the desktop and by {shutil.which('sh')} -c 'exit 0'"),
        (None, "linux", "none are given here; a command in GRPO_SWEEP_NOTIFY would get them"),
        ("", "darwin", "switched off (GRPO_SWEEP_NOTIFY is empty)"),
    ],
)
def test_it_is_told_how_notices_are_given(monkeypatch, setting, platform, text):
    """Whatever is set, before a night on which nobody hears of anything."""
    if setting is not None:
        monkeypatch.setenv("GRPO_SWEEP_NOTIFY", setting)
    assert notices_text(command_of_environment(), platform) == text


def test_a_command_for_notices_that_there_is_not_is_a_failure(capfd, no_children, monkeypatch):
    """No worker would start with it."""
    monkeypatch.setenv("GRPO_SWEEP_NOTIFY", "nope-x")
    code, notices = finding(capfd, "notices")
    assert (code, notices["level"]) == (1, "fail")
    assert "no such command" in notices["text"]


@pytest.mark.parametrize(
    ("setting", "came", "level", "text"),
    [
        ("true", None, "ok", "given; whether it was seen nobody was asked"),
        ("true", True, "ok", "given, and seen"),
        ("true", False, "warn", "given, and not seen"),
        ("false", True, "warn", f"not given: {shutil.which('false')}: exit code 1"),
    ],
)
def test_a_notice_is_tried_and_asked_for(monkeypatch, setting, came, level, text):
    """By the command that is set; a person says whether it came."""
    monkeypatch.setenv("GRPO_SWEEP_NOTIFY", setting)
    found = try_notice(None if came is None else lambda: came, "linux")
    assert (found.severity, found.text) == (level, text)
    assert bool(found.advice) == (level != "ok")


@pytest.mark.parametrize(("setting", "platform"), [(None, "linux"), ("", "darwin")])
def test_no_notice_is_tried_where_none_would_be_given(monkeypatch, setting, platform):
    """And nobody is asked."""
    if setting is not None:
        monkeypatch.setenv("GRPO_SWEEP_NOTIFY", setting)
    assert try_notice(lambda: pytest.fail("asked"), platform) is None


def test_a_notice_is_given_where_it_is_asked_for(capfd, no_children, monkeypatch, tmp_path):
    """Not in a pipe by itself; --notice gives it there too, and it is a line of the JSON."""
    told = tmp_path / "told"
    monkeypatch.setenv("GRPO_SWEEP_NOTIFY", f"sh -c 'echo $GRPO_SWEEP_EVENT >> {told}'")
    assert main(["doctor", "--json"]) == 0
    assert not told.exists()
    capfd.readouterr()
    assert main(["doctor", "--json", "--notice"]) == 0
    assert json.loads(capfd.readouterr().out)["checks"][-1]["name"] == "notice"
    assert told.read_text() == "test\n"


def test_sqlite_with_the_wal_bug_is_told_and_is_no_obstacle():
    """The queue does without a write-ahead log there."""
    assert sqlite_finding((3, 51, 3)) == Finding("sqlite", Severity.OK, "3.51.3")
    assert "can lose data (repaired in 3.51.3)" in sqlite_finding((3, 50, 4)).text


GPU = {"device": "gpu", "advised_bytes": 12 * 2**30, "room_bytes": 8.4 * 2**30, "said": ""}
CPU = {"device": "cpu", "advised_bytes": 0, "room_bytes": 0, "said": ""}


@pytest.mark.parametrize(
    ("told", "system", "level", "text"),
    [
        (
            {**GPU, "name": "Apple M4"},
            "darwin", "ok", "GPU (Apple M4), 8.4 GB for training of the 12.0 that it offers",
        ),
        # It has Metal (github.com/rajveer43/VeloxQuant-MLX, issue 395).
        (
            {**GPU, "name": "Apple Paravirtual device"},
            "darwin", "warn",
            "GPU (Apple Paravirtual device), 8.4 GB for training of the 12.0 that it offers: "
            "a virtual machine's",
        ),
        ({**CPU, "name": ""}, "darwin", "warn", "CPU: no GPU can be used here"),
        (
            {**CPU, "name": "x"},
            "linux", "ok", "CPU (x): right for trying out, slow for real models",
        ),
    ],
)  # fmt: skip
def test_the_device_is_told_with_what_it_means(told, system, level, text, monkeypatch):
    """A Mac whose GPU cannot be had is a virtual machine, or a session without one."""
    monkeypatch.delenv("GRPO_DEVICE")
    found = device_finding(told, system)
    assert (found.severity, found.text) == (level, text)
    assert bool(found.advice) == (level != "ok")


def test_a_cpu_that_was_asked_for_is_no_fault():
    """On a Mac neither."""
    found = device_finding({**CPU, "name": "Apple M4"}, "darwin")
    assert (found.severity, found.text) == ("ok", "CPU (Apple M4), as GRPO_DEVICE=cpu says")


def test_a_device_that_is_no_device_is_a_failure(capfd, monkeypatch):
    """With the message that a run would give, and not as an MLX that cannot be loaded."""
    monkeypatch.setenv("GRPO_DEVICE", "mps")
    monkeypatch.setattr(doctor, "_blas", lambda: iter(()))
    monkeypatch.setattr(doctor, "_step", lambda: iter(()))
    code, device = finding(capfd, "device")
    assert (code, device["level"]) == (1, "fail")
    assert device["text"] == "GRPO_DEVICE = 'mps': must be cpu or gpu, or not set"


OPENBLAS = "OpenBLAS 0.3.34 Haswell"
OWN = {"blas": "MLX's own", "gflops": 4.4}


@pytest.mark.parametrize(
    ("told", "asked", "level", "text", "advice"),
    [
        (
            {"blas": OPENBLAS, "gflops": 133.2, "why_own": ""},
            "", "ok", f"133 GFLOP/s in fp32 with one thread by {OPENBLAS}", "",
        ),
        # A small processor with a good library: nothing to mend.
        (
            {"blas": OPENBLAS, "gflops": 6.1, "why_own": ""},
            "", "ok", f"6 GFLOP/s in fp32 with one thread by {OPENBLAS}", "",
        ),
        (
            {**OWN, "why_own": "no other library found"},
            "", "warn",
            "4 GFLOP/s in fp32 with one thread by MLX's own (no other library found)",
            "install a faster one with: pip install -U scipy-openblas32",
        ),
        (
            {**OWN, "why_own": "GRPO_BLAS=reference"},
            "reference", "warn", "4 GFLOP/s in fp32 with one thread by MLX's own",
            "unset GRPO_BLAS: training chooses a faster one by itself",
        ),
    ],
)  # fmt: skip
def test_how_fast_the_cpu_multiplies_is_told(monkeypatch, told, asked, level, text, advice):
    """With what to do where MLX's own library is slow."""
    monkeypatch.setenv("GRPO_BLAS", asked)
    assert list(blas_finding(told)) == [Finding("matrix products", Severity(level), text, advice)]


def test_nothing_is_told_where_a_gpu_multiplies():
    """Nor on macOS."""
    assert list(blas_finding({"blas": "", "gflops": None, "why_own": ""})) == []


def test_a_wrong_setting_of_the_library_is_a_failure(capfd, monkeypatch):
    """With the message that a run would give."""
    monkeypatch.setenv("GRPO_BLAS", "/nowhere/libblas.so")
    monkeypatch.setattr(doctor, "_step", lambda: iter(()))
    code, products = finding(capfd, "matrix products")
    assert (code, products["level"]) == (1, "fail")
    assert "GRPO_BLAS = '/nowhere/libblas.so': there is no such file" in products["text"]


@pytest.mark.parametrize(
    ("code", "err", "wall_s", "level", "text"),
    [
        (0, "", 1.25, "ok", "one update of the embedded model, from load to save, in 1.2 s"),
        (0, "", None, "fail", "ended with exit code 0: it said nothing"),
        (5, "a\nerror: GPU hang\n", None, "fail", "ended with exit code 5: GPU hang"),
        (-6, "libc++abi: terminating", None, "fail", "ended with exit code -6: libc++abi"),
        (None, "", None, "fail", "still not done after 180 s"),
    ],
)
def test_what_came_of_the_step_is_told(code, err, wall_s, level, text):
    """By exit code and result file, never by the log alone."""
    found = step_finding(code, err, wall_s)
    assert found.severity == level
    assert found.text.startswith(text)
    assert bool(found.advice) == (level != "ok")


def test_lines_for_people_say_level_name_and_what_to_do(capfd, no_children, monkeypatch):
    """One line a check, an arrow before advice, no colour in a pipe."""
    monkeypatch.setattr(doctor, "network_type", lambda folder: "smbfs")
    assert main(["doctor"]) == 1
    out = capfd.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(out) if line.startswith("fail queue "))
    assert out[at + 1].strip().startswith("→ set GRPO_SWEEP_HOME")
    assert out[0].startswith("ok   python ")
