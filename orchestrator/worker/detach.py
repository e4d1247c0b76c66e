"""Starts a worker in the background until it serves the queue, and asks one to stop."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.errors import SweepError, WorkerBusy
from orchestrator.system import paths
from orchestrator.system.paths import Home
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.hours import Hours
from orchestrator.worker.serving import (
    ServingWorker,
    busy_text,
    holder_pid,
    is_served,
    serving_worker,
    worker_alive,
)
from orchestrator.worker.slots import Slots

_DETACH_WAIT_S = 20.0
_STOP_POLL_S = 0.1


def spawn_detached(
    home: Home | None = None,
    *,
    until_empty: bool = False,
    frozen: bool = False,
    prewarm: bool | None = None,
    hours: Hours | None = None,
    slots: Slots | None = None,
    cluster: Sequence[str] = (),
) -> int:
    """Start a worker that outlives this terminal; its pid, once it serves the queue.

    What it says is appended to `home.worker_log`. Raises WorkerBusy when one is there already, and
    SweepError when it ends at once.
    """
    home = (home or paths.home()).make()
    if is_served(home):
        raise WorkerBusy(busy_text(home))
    words = command(frozen=frozen, prewarm=prewarm, hours=hours, slots=slots, cluster=cluster)
    words += ["--until-empty"] if until_empty else []
    try:
        return start_detached(
            words, home, home.worker_log, "the worker", lambda pid: holder_pid(home) == pid, True
        )
    except SlowStart as e:
        # On a full disk it cannot say that it serves; beside another it would have ended.
        if serving_worker(home) == ServingWorker(None):
            return e.pid
        raise


def command(
    *,
    frozen: bool = False,
    prewarm: bool | None = None,
    hours: Hours | None = None,
    slots: Slots | None = None,
    cluster: Sequence[str] = (),
) -> list[str]:
    """The command of a worker that starts without a terminal; `cluster`: options that name one."""
    words = [sys.executable, "-P", "-m", "orchestrator", "work"]
    words += ["--frozen"] if frozen else []
    words += {None: [], True: ["--prewarm"], False: ["--no-prewarm"]}[prewarm]
    words += slots.words() if slots else []
    return [*words, *(hours or Hours()).words(), *cluster]


class SlowStart(SweepError):
    """A process that lives, but does not say that it works."""

    def __init__(self, message: str, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


def start_detached(
    words: list[str],
    home: Home,
    log: Path,
    who: str,
    ready: Callable[[int], bool],
    may_end: bool = False,
) -> int:
    """Start a process that outlives this terminal; its pid, once `ready` says that it works.

    What it says is appended to `log`. SweepError when it ends at once, unless it `may_end` well,
    and SlowStart when it takes too long.
    """
    with open(log, "ab") as said:
        process = subprocess.Popen(
            words,
            cwd=home.root,
            env={**os.environ, paths.ENV_HOME: str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACH_WAIT_S
    while time.monotonic() < deadline:
        code = process.poll()
        if code == 0 and may_end:
            return process.pid
        if code is not None:
            tail = read_tail(log).strip().splitlines()[-1:]
            raise SweepError(f"{who} ended at once: {''.join(tail)} (see {log})")
        if ready(process.pid):
            return process.pid
        time.sleep(0.02)
    raise SlowStart(f"{who} does not start; see {log}", process.pid)


def ask_to_stop(pid: int, home: Home | None = None) -> None:
    """Ask the worker with that pid to checkpoint and end, and wait until it has.

    As long as it takes: a trainer that stalls is ended by its worker. Raises SweepError where it is
    another user's.
    """
    home = home or paths.home()
    try:
        os.kill(pid, signal.SIGTERM)
        # A suspended worker hears nothing.
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return
    except PermissionError:
        raise SweepError(f"the worker (pid {pid}) belongs to another user") from None
    while worker_alive(home) == pid:
        time.sleep(_STOP_POLL_S)
