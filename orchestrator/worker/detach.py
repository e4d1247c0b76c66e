"""Starts a worker in the background until it serves the queue, and asks one to stop."""

import os
import signal
import subprocess
import sys
import time

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
) -> int:
    """Start a worker that outlives this terminal; its pid, once it serves the queue.

    What it says is appended to `home.worker_log`. Raises WorkerBusy when one is there already, and
    SweepError when it ends at once.
    """
    home = (home or paths.home()).make()
    if is_served(home):
        raise WorkerBusy(busy_text(home))
    words = command(frozen=frozen, prewarm=prewarm, hours=hours, slots=slots)
    words += ["--until-empty"] if until_empty else []
    with open(home.worker_log, "ab") as log:
        process = subprocess.Popen(
            words,
            cwd=home.root,
            env={**os.environ, paths.ENV_HOME: str(home.root)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _await_worker(process, home)
    return process.pid


def command(
    *,
    frozen: bool = False,
    prewarm: bool | None = None,
    hours: Hours | None = None,
    slots: Slots | None = None,
) -> list[str]:
    """The command of a worker that starts without a terminal."""
    words = [sys.executable, "-P", "-m", "orchestrator", "work"]
    words += ["--frozen"] if frozen else []
    words += {None: [], True: ["--prewarm"], False: ["--no-prewarm"]}[prewarm]
    return [*words, *(slots or Slots()).words(), *(hours or Hours()).words()]


def _await_worker(process: "subprocess.Popen[bytes]", home: Home) -> None:
    deadline = time.monotonic() + _DETACH_WAIT_S
    while time.monotonic() < deadline:
        code = process.poll()
        # Exit code 0: it found nothing left to do.
        if code == 0 or (code is None and holder_pid(home) == process.pid):
            return
        if code is not None:
            tail = read_tail(home.worker_log).strip().splitlines()[-1:]
            raise SweepError(f"the worker ended at once: {''.join(tail)} (see {home.worker_log})")
        time.sleep(0.02)
    if serving_worker(home) == ServingWorker(None):
        # On a full disk it cannot say that it serves; beside another it would have ended.
        return
    raise SweepError(f"the worker does not start; see {home.worker_log}")


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
