"""Looks at the machine for what makes training fail, slow or unsafe, and says what to do about it.

Known faults: SQLite's WAL-reset bug (see `connection.py`); before mlx 0.32.1 a Metal error ends the
process from another thread, where nothing can catch it (mlx #3523). MLX is looked at in child
processes: this one never loads it.
"""

import json
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from grpo_core.errors import ExitCode
from orchestrator.errors import SweepError
from orchestrator.queue.connection import network_type, wal_is_safe
from orchestrator.queue.store import Store
from orchestrator.system.paths import ENV_HOME, Home, shipped
from orchestrator.system.processes import low_memory
from orchestrator.worker.launcher import TRAINER
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
        _sqlite,
        _memory,
        lambda: _disk(home, folder),
        lambda: _queue(home),
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


# --- MLX, in children

_ASK_DEVICE = """
import json, mlx.core as mx
found = {"device": str(mx.default_device().type), "metal": mx.metal.is_available()}
try:
    info = mx.device_info()
    found["name"] = str(info.get("device_name", ""))
    found["advised"] = info.get("max_recommended_working_set_size")
except Exception as e:  # Not every backend can say; the name is for people only.
    found["name"] = ""
print(json.dumps(found))
"""
_ASK_S = 60.0
_STEP_S = 180.0


def _device() -> Iterator[Finding]:
    code, out, err = _child([sys.executable, "-P", "-c", _ASK_DEVICE], _ASK_S)
    if code != 0:
        advice = "reinstall with: pip install -U mlx"
        yield Finding("device", Severity.FAIL, f"MLX cannot be loaded: {_last_line(err)}", advice)
        return
    yield device_finding(json.loads(out.splitlines()[-1]), sys.platform)


def device_finding(found: dict[str, Any], system: str) -> Finding:
    """What MLX says of its default device."""
    name = f" ({found['name']})" if found.get("name") else ""
    if "cpu" not in found["device"].lower():
        advised = found.get("advised")
        room = f", {advised / GB:.1f} GB for training" if advised else ""
        return Finding("device", Severity.OK, f"GPU{name}{room}")
    if system == "darwin":
        advice = "train on the Mac itself: virtual machines have no Metal"
        return Finding("device", Severity.WARN, f"CPU{name}: no Metal here", advice)
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
