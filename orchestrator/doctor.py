"""Looks at the machine for what makes training fail, slow or unsafe, and says what to do about it.

Known faults: SQLite's WAL-reset bug (see `connection.py`); before mlx 0.32.1 a Metal error ends the
process from another thread, where nothing can catch it (mlx #3523). MLX is looked at in child
processes: this one never loads it.
"""

import json
import os
import platform
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from grpo_core.errors import ExitCode
from grpo_core.run.device_choice import CPU, ENV_DEVICE
from orchestrator.errors import SweepError
from orchestrator.queue.connection import network_type, wal_is_safe
from orchestrator.queue.store import Store
from orchestrator.system.macos import is_hidden, is_synced
from orchestrator.system.paths import ENV_HOME, Home, shipped
from orchestrator.system.processes import low_memory
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.notices import ENV as ENV_NOTIFY
from orchestrator.worker.notices import (
    TEST,
    Notice,
    command_of_environment,
    desktop_command,
    is_off,
    run_quietly,
)
from orchestrator.worker.notices import TIMEOUT_S as NOTICE_TIMEOUT_S
from orchestrator.worker.serving import serving_worker

GB = 2**30


class Severity(StrEnum):
    """How bad it is: nothing, worth knowing, or in the way of training."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor: what was looked at, how it is, and what to do where it is not ok."""

    name: str
    severity: Severity
    text: str
    advice: str = ""


def examine(home: Home, folder: Path) -> Iterator[Finding]:
    """Every check in turn, for a queue in `home` and runs in `folder`; changes nothing there."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _environment,
        _sqlite,
        _memory,
        lambda: _disk(home, folder),
        lambda: _queue(home),
        _notices,
        _device,
        _blas,
        _step,
    )
    for check in checks:
        yield from check()


# --- versions


def _python() -> Iterator[Finding]:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.platform == "darwin" and platform.machine() != "arm64":
        advice = "install a Python for Apple silicon (arm64): MLX has no GPU under Rosetta"
        yield Finding("python", Severity.FAIL, version, advice)
    else:
        yield Finding("python", Severity.OK, version)


@dataclass(frozen=True)
class Environment:
    """Where Python finds its packages, and what iCloud may do to that."""

    folder: Path
    hidden: tuple[str, ...]
    """The `.pth` files with the flag "hidden", which Python passes over: an editable install."""
    is_synced: bool

    @property
    def has_dot(self) -> bool:
        """Whether a folder on the way begins with a dot, as `.venv` does."""
        return any(part.startswith(".") for part in self.folder.parts)


def _environment() -> Iterator[Finding]:
    if platform.system() == "Darwin":
        folder = Path(sysconfig.get_paths()["purelib"])
        hidden = tuple(path.name for path in sorted(folder.glob("*.pth")) if is_hidden(path))
        yield environment_finding(Environment(folder, hidden, is_synced(folder, Path.home())))


def environment_finding(found: Environment) -> Finding:
    """Whether what is installed will still be found in some days; for macOS."""
    elsewhere = "python3 -m venv venv, without a dot, in a folder that nothing keeps in step"
    if found.hidden:
        text = f"Python passes over {', '.join(found.hidden)} in {found.folder}: hidden by macOS"
        advice = f"unhide with: chflags -R nohidden {shlex.quote(str(found.folder))}"
        advice += f"; for good with: {elsewhere}" if found.is_synced else ""
        return Finding("environment", Severity.FAIL, text, advice)
    if found.is_synced and found.has_dot:
        text = f"{found.folder}: iCloud hides what lies there, and then Python does not find it"
        return Finding("environment", Severity.WARN, text, f"make another: {elsewhere}")
    return Finding("environment", Severity.OK, str(found.folder))


# What training imports, with the first version that we can use.
_NEEDED = {"mlx": (0, 32), "mlx-lm": (0, 32, 2), "transformers": (0,), "datasets": (4,)}


def _packages() -> Iterator[Finding]:
    for name, least in _NEEDED.items():
        try:
            yield package_finding(name, metadata.version(name), least)
        except metadata.PackageNotFoundError:
            advice = "reinstall with: pip install -U grpo-sweep"
            yield Finding(name, Severity.FAIL, "not installed", advice)


def package_finding(name: str, version: str, least: tuple[int, ...]) -> Finding:
    """What is known of a version of a package that training imports."""
    found = numbers(version)
    upgrade = f"upgrade with: pip install -U {name}"
    if found < least:
        need = ".".join(map(str, least))
        return Finding(name, Severity.FAIL, f"{version}, but {need} or newer is needed", upgrade)
    if name == "mlx" and found < (0, 32, 1):
        text = f"{version}: a Metal error ends the training at once, without a message (mlx #3523)"
        return Finding(name, Severity.WARN, text, upgrade)
    return Finding(name, Severity.OK, version)


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: `0.32.1rc1` is (0, 32, 1)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def _sqlite() -> Iterator[Finding]:
    yield sqlite_finding(sqlite3.sqlite_version_info)


def sqlite_finding(version: tuple[int, ...]) -> Finding:
    """Whether this SQLite may use a write-ahead log; where not, the queue does without one."""
    text = ".".join(map(str, version))
    if wal_is_safe(version):
        return Finding("sqlite", Severity.OK, text)
    words = "its write-ahead log can lose data (repaired in 3.51.3); the queue does without one"
    return Finding("sqlite", Severity.OK, f"{text}: {words}")


# --- the machine


def _memory() -> Iterator[Finding]:
    found = psutil.virtual_memory()
    text = f"{found.available / GB:.1f} of {found.total / GB:.1f} GB free"
    if short := low_memory():
        yield Finding(
            "memory", Severity.WARN, short, "close what you can: macOS swaps, and runs crawl"
        )
    else:
        yield Finding("memory", Severity.OK, text)


def _disk(home: Home, folder: Path) -> Iterator[Finding]:
    for name, path in (("disk", folder), ("disk of the queue", _existing(home.root))):
        free = shutil.disk_usage(path).free
        text = f"{free / GB:.1f} GB free at {path}"
        if free < GB:
            yield Finding(name, Severity.FAIL, text, "free some space: a checkpoint would not fit")
        elif free < 10 * GB:
            yield Finding(name, Severity.WARN, text, "a night of checkpoints may need more")
        else:
            yield Finding(name, Severity.OK, text)


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.is_dir())


def _queue(home: Home) -> Iterator[Finding]:
    where = _existing(home.root)
    advice = f"set {ENV_HOME} to a folder on a local disk that you can write to"
    if kind := network_type(where):
        text = f"{home.root} lies on a network folder ({kind}), where locks do not hold"
        yield Finding("queue", Severity.FAIL, text, advice)
        return
    if not os.access(where, os.W_OK):
        yield Finding("queue", Severity.FAIL, f"{home.root}: you may not write there", advice)
        return
    try:
        yield _open_queue(home)
    except SweepError as e:
        yield Finding("queue", Severity.FAIL, str(e))


def _open_queue(home: Home) -> Finding:
    if not home.db.exists():
        return Finding("queue", Severity.OK, f"{home.db}: none yet; the first submit makes it")
    with Store.open(home.db, readonly=True) as store:
        if fault := store.queries.damage():
            advice = "restore a backup, or move the file away to start anew"
            return Finding("queue", Severity.FAIL, f"{home.db}: damaged: {fault}", advice)
        runs = sum(sum(sweep.counts.values()) for sweep in store.queries.sweeps(all=True))
    worker = serving_worker(home)
    served = "no worker runs" if worker is None else f"worker runs ({worker.who})"
    return Finding("queue", Severity.OK, f"{home.db}: {runs} runs, {served}")


# --- notices

_TRIED = Notice(TEST, "grpo-sweep doctor: notices come through")
_NONE = "none are given here"


def _notices() -> Iterator[Finding]:
    try:
        command = command_of_environment()
    except SweepError as e:
        yield Finding("notices", Severity.FAIL, str(e))
    else:
        yield Finding("notices", Severity.OK, notices_text(command))


def notices_text(command: Sequence[str] | None, platform: str = sys.platform) -> str:
    """By what ways a worker would tell of the end of a sweep, and of failures."""
    if is_off():
        return f"switched off ({ENV_NOTIFY} is empty)"
    ways = ["on the desktop"] if desktop_command(_TRIED, platform) else []
    ways += [f"by {shlex.join(command)}"] if command else []
    return " and ".join(ways) or f"{_NONE}; a command in {ENV_NOTIFY} would get them"


def try_notice(came: Callable[[], bool] | None, platform: str = sys.platform) -> Finding | None:
    """Give a notice by all ways that are set, and ask whether it `came`; None without a way.

    None as `came`: nobody is there to be asked. UsageError for a command that there is not.
    """
    command = command_of_environment()
    desktop = None if is_off() else desktop_command(_TRIED, platform)
    if command is None and desktop is None:
        return None
    for words, fields in ((desktop, {}), (command, _TRIED.fields())):
        if words and (fault := run_quietly(words, fields, NOTICE_TIMEOUT_S)):
            text = f"not given: {shlex.join(words[:1])}: {fault}"
            return Finding("notice", Severity.WARN, text, f"set {ENV_NOTIFY} to what does it")
    if came is None:
        return Finding("notice", Severity.OK, "given; whether it was seen nobody was asked")
    if came():
        return Finding("notice", Severity.OK, "given, and seen")
    advice = (
        "allow those of Script Editor in System Settings, Notifications; or " if desktop else ""
    )
    advice += f"name a command in {ENV_NOTIFY} that reaches you"
    return Finding("notice", Severity.WARN, "given, and not seen", advice)


# --- MLX, in children

_ASK_S = 60.0
_STEP_S = 180.0


def _device() -> Iterator[Finding]:
    code, out, err = _child([sys.executable, "-P", "-m", "grpo_core.model.device"], _ASK_S)
    if code == 0:
        yield device_finding(json.loads(out.splitlines()[-1]), sys.platform)
    elif code == ExitCode.CONFIG:
        yield Finding("device", Severity.FAIL, _last_line(err))
    else:
        advice = "reinstall with: pip install -U mlx"
        yield Finding("device", Severity.FAIL, f"MLX cannot be loaded: {_last_line(err)}", advice)


# What macOS calls the GPU that it passes on to a virtual machine.
_PASSED_ON = "Apple Paravirtual device"


def device_finding(found: dict[str, Any], system: str) -> Finding:
    """What the device that a trainer would take is, by `grpo_core.model.device`."""
    name = f" ({found['name']})" if found["name"] else ""
    if found["device"] == "gpu":
        text = f"GPU{name}"
        if found["advised_bytes"]:
            room, advised = found["room_bytes"] / GB, found["advised_bytes"] / GB
            text += f", {room:.1f} GB for training of the {advised:.1f} that it offers"
        if found["name"] == _PASSED_ON:
            advice = "prove that it computes right with: grpo-sweep doctor --deep"
            return Finding("device", Severity.WARN, f"{text}: a virtual machine's", advice)
        return Finding("device", Severity.OK, text)
    if os.environ.get(ENV_DEVICE) == CPU:
        return Finding("device", Severity.OK, f"CPU{name}, as {ENV_DEVICE}={CPU} says")
    if system == "darwin":
        advice = "train on the Mac itself, logged in: not every virtual machine or session has one"
        text = f"CPU{name}: no GPU can be used here"
        return Finding("device", Severity.WARN, text, advice)
    return Finding("device", Severity.OK, f"CPU{name}: right for trying out, slow for real models")


# The reference BLAS in MLX's wheel for Linux does 1 to 5 where a good one does 80 to 150.
_SLOW_GFLOPS = 15.0


def _blas() -> Iterator[Finding]:
    code, out, err = _child([sys.executable, "-P", "-m", "grpo_core.blas.measure"], _ASK_S)
    if code == 0:
        yield from blas_finding(json.loads(out.splitlines()[-1]))
    else:
        yield Finding("matrix products", Severity.FAIL, f"not measured: {_last_line(err)}")


def blas_finding(found: dict[str, Any]) -> Iterator[Finding]:
    """How fast the CPU multiplies; nothing where a GPU does, or macOS, whose own is good."""
    if not found["blas"]:
        return
    text = f"{found['gflops']:.0f} GFLOP/s in fp32 with one thread by {found['blas']}"
    if not found["why_own"] or found["gflops"] >= _SLOW_GFLOPS:
        yield Finding("matrix products", Severity.OK, text)
    elif os.environ.get("GRPO_BLAS"):
        advice = "unset GRPO_BLAS: training chooses a faster one by itself"
        yield Finding("matrix products", Severity.WARN, text, advice)
    else:
        advice = "install a faster one with: pip install -U scipy-openblas32"
        yield Finding("matrix products", Severity.WARN, f"{text} ({found['why_own']})", advice)


# A whole run of the embedded model, as short as one can be: load, roll out, one update, save.
_STEP = {
    "max_train_samples": "4",
    "eval_steps": "0",
    "eval_at_start": "false",
    "eval_at_end": "false",
    "save_steps": "0",
}


def _step() -> Iterator[Finding]:
    with tempfile.TemporaryDirectory(prefix="grpo-doctor-") as folder:
        overrides = {**_STEP, "output_dir": str(Path(folder, "run"))}
        words = [*TRAINER, "--config", str(shipped("configs/tiny.toml")), "--strict", "--no-wait"]
        for key, value in overrides.items():
            words += ["--set", f"{key}={value}"]
        code, _, err = _child(words, _STEP_S, cwd=folder)
        yield step_finding(code, err, _wall_s(Path(folder, "run", "result.json")))


def step_finding(code: int | None, err: str, wall_s: float | None) -> Finding:
    """What came of one real update: docs/run-folder.md lists the trainer's exit codes."""
    said = _last_line(err).removeprefix("error: ")
    if code == 0 and wall_s is not None:
        text = f"one update of the embedded model, from load to save, in {wall_s:.1f} s"
        return Finding("training step", Severity.OK, text)
    if code == ExitCode.INTERRUPTED:
        return Finding(
            "training step", Severity.WARN, f"not tried: {said}", "try again once it ended"
        )
    if code is None:
        text = f"still not done after {_STEP_S:.0f} s"
        return Finding("training step", Severity.FAIL, text, "if a GPU hangs, only a restart helps")
    advice = "see it whole with: grpo-sweep run --config configs/tiny.toml"
    return Finding("training step", Severity.FAIL, f"ended with exit code {code}: {said}", advice)


def _wall_s(result: Path) -> float | None:
    try:
        return float(json.loads(result.read_bytes())["wall_s"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _child(words: list[str], limit_s: float, cwd: str | None = None) -> tuple[int | None, str, str]:
    """(exit code or None when it took too long, stdout, stderr)."""
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return None, "", ""
    return done.returncode, done.stdout, done.stderr


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
