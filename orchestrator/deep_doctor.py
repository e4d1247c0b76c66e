"""`doctor --deep`: five minutes of measurements that only the machine itself can answer.

Written for Macs, which we do not have: one JSON without paths or names to send back. Each part
that uses the device is a process of its own with a time limit (`grpo_core/deep_checks.py`), so that
a GPU that hangs costs one row. `deep_judgement.py` judges what is read.
"""

import contextlib
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from grpo_core.run.atomic import sync
from grpo_core.run.macos import DRIVER
from grpo_core.run.protocol import machine_fault, package_versions
from orchestrator.deep_judgement import (
    ADOPTED,
    DISPLAY_S,
    Mark,
    Numbers,
    Row,
    judge,
    judge_adoption,
    judge_cache,
    judge_decoding,
    judge_device,
    judge_display,
    judge_gradient,
    judge_peaks,
    judge_prefix,
)
from orchestrator.queue.store import Store
from orchestrator.system.macos import pressure
from orchestrator.system.paths import ENV_HOME, Home, shipped
from orchestrator.system.processes import kill_carriers
from orchestrator.worker.notices import Notice, desktop_command

_CHECK_S = 90.0
_ADOPT_S = 90.0
_NOTICE_S = 30.0
_POLL_S = 0.05


def measure() -> Iterator[Row]:
    """Row by row; touches no queue and no folder of the user's."""
    yield _machine()
    device = _child("device")
    yield judge_device(device)
    is_mac = device.get("device") == "gpu" and sys.platform == "darwin"
    yield judge_gradient(_child("gradient"))
    yield judge("quantised products", _child("quantised"), odd=1e-4, bad=1e-2)
    yield judge_prefix(_child("prefix"))
    yield judge_decoding(_child("decoding", limit_s=180))
    yield judge_peaks(_child("peaks"))
    yield judge_cache(_child("cache"))
    yield from _under_the_display(is_mac)
    yield _memory()
    yield _killed(is_mac)
    yield row_of(ADOPTED, _adoption)
    yield row_of("disk", _disk)
    yield row_of("notice", _notice)


def row_of(name: str, part: Callable[[], Row]) -> Row:
    """What a part finds; one that hangs or fails costs its own row. Names no path."""
    try:
        return part()
    except subprocess.TimeoutExpired as e:
        said = f"no answer within {e.timeout:.0f} s"
    except subprocess.CalledProcessError as e:
        said = f"ended with {e.returncode}"
    # Whatever a machine that we do not know makes of it: the other rows are to be sent back.
    except Exception as e:  # noqa: BLE001
        said = f"failed: {type(e).__name__}"
    return Row(name, Mark.BAD, said, {"failed": said})


# --- facts


def _machine() -> Row:
    facts = {
        "system": platform.system(),
        "release": platform.release(),
        "macos": platform.mac_ver()[0],
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "battery": psutil.sensors_battery() is not None,
        "sqlite": sqlite3.sqlite_version,
        **package_versions(),
    }
    return Row("machine", Mark.OK, f"{facts['system']} {facts['machine']}", facts)


def _under_the_display(is_mac: bool) -> Iterator[Row]:
    """Updates while the display is on, without and with the driver's switch (mlx #3267)."""
    own: dict[str, str]
    for word, own in (("without", {}), ("with", {DRIVER: "1"})):
        name = f"updates, display on, {word} {DRIVER}"
        if not is_mac:
            yield Row(name, Mark.NONE, "only Metal on a Mac has this watchdog")
            continue
        env = {key: value for key, value in os.environ.items() if key != DRIVER} | own
        found = _child("updates", str(DISPLAY_S), limit_s=3 * DISPLAY_S, env=env)
        yield judge_display(name, found)


# --- the machine around it


def _memory() -> Row:
    memory, swap = psutil.virtual_memory(), psutil.swap_memory()
    found = {"available": memory.available, "total": memory.total, "swap_used": swap.used}
    found |= {"wired": memory.wired} if hasattr(memory, "wired") else {}
    if (pressed := pressure()) is not None:
        found |= {"percent_left": pressed.percent, "pressure": pressed.level}
    share = memory.available / memory.total
    return Row("memory", Mark.OK if share > 0.15 else Mark.ODD, f"{share:.0%} left", found)


def _killed(is_mac: bool) -> Row:
    """A process killed under load: does what it had wired come back?"""
    name = "wired memory after kill -9"
    if not is_mac:
        return Row(name, Mark.NONE, "only macOS counts wired memory")
    before = psutil.virtual_memory().wired
    with subprocess.Popen(_words("updates", "60"), stdout=subprocess.DEVNULL) as child:
        time.sleep(15.0)
        during = psutil.virtual_memory().wired
        child.kill()
    time.sleep(5.0)
    after = psutil.virtual_memory().wired
    left = (after - before) / 1e9
    found = {"before": before, "during": during, "after": after}
    verdict = Mark.OK if left < 0.5 else Mark.BAD
    return Row(name, verdict, f"{left:+.1f} GB five seconds later", found)


def _adoption() -> Row:
    """A worker killed under a real run: does the next one take the trainer over?"""
    with (
        tempfile.TemporaryDirectory(prefix="grpo-deep-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as after,
    ):
        home = Home(Path(folder, "home")).make()
        # However it ends: a worker and its trainer, which leaves the worker's group.
        after.callback(kill_carriers, ENV_HOME, {str(home.root)})
        env = {**os.environ, ENV_HOME: str(home.root), "GRPO_SWEEP_NOTIFY": ""}
        env["GRPO_GPU_LOCK"] = str(Path(folder, "gpu.lock"))
        base = json.dumps(str(shipped("configs/tiny.toml")))
        Path(folder, "deep.toml").write_text(f"config = {base}\n[set]\neval_steps = 0\n")
        ours = [sys.executable, "-P", "-m", "orchestrator"]
        null = subprocess.DEVNULL
        quiet: dict[str, Any] = {"cwd": folder, "env": env, "stdout": null, "stderr": null}
        subprocess.run([*ours, "submit", "deep.toml"], check=True, timeout=_ADOPT_S, **quiet)
        with subprocess.Popen([*ours, "work"], **quiet) as worker:
            try:
                trains = _until(lambda: _trains(home))
            finally:
                worker.kill()
        again = [*ours, "work", "--until-empty"]
        code = subprocess.run(again, timeout=_ADOPT_S, **quiet).returncode
        with Store.open(home.db, readonly=True) as store:
            run = store.queries.runs()[0]
    return judge_adoption(
        {"seen": trains, "state": str(run.state), "attempts": run.attempt, "exit_code": code}
    )


def _trains(home: Home) -> bool:
    with Store.open(home.db, readonly=True) as store:
        running = store.queries.running()
        return any(store.queries.attempts(run.id)[-1].pid is not None for run in running)


def _until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + _ADOPT_S
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(_POLL_S)
    return False


def _disk() -> Row:
    """What a line to the disk itself and a commit of the queue take."""
    with tempfile.TemporaryDirectory(prefix="grpo-deep-") as folder:
        with open(Path(folder, "file"), "wb") as file:
            began = time.perf_counter()
            for _ in range(20):
                file.write(b"x" * 512)
                file.flush()
                sync(file.fileno())
            fsync_s = (time.perf_counter() - began) / 20
        with Store.open(Path(folder, "queue.db")) as store:
            began = time.perf_counter()
            for _ in range(10):
                store.control.pause_queue()
                store.control.resume_queue()
            commit_s = (time.perf_counter() - began) / 20
    worst = max(fsync_s, commit_s)
    verdict = Mark.OK if worst < 0.1 else Mark.ODD if worst < 1 else Mark.BAD
    text = f"{1000 * fsync_s:.1f} ms to the disk, {1000 * commit_s:.1f} ms a commit"
    return Row("disk", verdict, text, {"fsync_s": fsync_s, "commit_s": commit_s})


def _notice() -> Row:
    """One notice, which the user has seen or not."""
    words = desktop_command(Notice("sweep_done", "doctor --deep is done: do you see this?"))
    if words is None:
        return Row("notice", Mark.NONE, "shown on macOS only")
    code = subprocess.run(words, capture_output=True, timeout=_NOTICE_S).returncode
    text = "sent; if you saw none, allow those of Script Editor in System Settings, Notifications"
    return Row("notice", Mark.BAD if code else Mark.ODD, text, {"exit_code": code})


# --- children


def _words(*args: str) -> list[str]:
    return [sys.executable, "-P", "-m", "grpo_core.deep_checks", *args]


def _child(*args: str, limit_s: float = _CHECK_S, env: Mapping[str, str] | None = None) -> Numbers:
    """What a check prints; `failed` says how it ended where it prints nothing."""
    try:
        done = subprocess.run(
            _words(*args),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            stdin=subprocess.DEVNULL,
            env=env,
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"no answer within {limit_s:.0f} s"}
    if done.returncode == 0:
        return dict(json.loads(done.stdout.splitlines()[-1]))
    return {"failed": failure(done.returncode, done.stderr)}


def failure(code: int, err: str) -> str:
    """How a check ended, without its paths: the kind of fault, else the kind of error."""
    lines = [line for line in err.splitlines() if line.strip()]
    fault = next(filter(None, map(machine_fault, reversed(lines))), None)
    if fault is not None:
        return f"ended with {code}: {fault.name}"
    kind = lines[-1].partition(":")[0] if lines else "no message"
    return f"ended with {code}: {kind if kind.isidentifier() else 'another message'}"
