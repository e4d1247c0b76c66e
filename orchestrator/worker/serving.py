"""Whether a worker serves the queue, and which one; known by a lock that only one can hold.

Apart from the worker itself because a status asks for it, and must not wait for all that a worker
loads.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from grpo_core.run.atomic import read_json
from orchestrator.errors import WorkerBusy
from orchestrator.system import paths
from orchestrator.system.locks import FileLock, is_held, try_lock
from orchestrator.system.paths import Home
from orchestrator.system.processes import is_stopped

# In the environment of a worker that the system's service manager starts.
ENV_SERVICE = "GRPO_SWEEP_SERVICE"

# A command that asks "is it held?" holds the lock for an instant.
_LOCK_WAIT_S = 1.0


@dataclass(frozen=True)
class ServingWorker:
    """The worker that serves the queue; `waits` is why it starts nothing now, and until when."""

    pid: int
    stopped: bool = False
    """Suspended, as by Ctrl-Z."""
    waits: str | None = None


def serving_worker(home: Home | None = None) -> ServingWorker | None:
    """The worker that serves the queue, if one does."""
    home = home or paths.home()
    pid = worker_alive(home)
    if pid is None:
        return None
    waits = _holder(home).get("waits")
    return ServingWorker(pid, is_stopped(pid), waits if isinstance(waits, str) else None)


def worker_alive(home: Home | None = None) -> int | None:
    """The pid of the worker that serves the queue, if one does."""
    home = home or paths.home()
    return holder_pid(home) if is_held(home.worker_lock) else None


class Serving:
    """Held by the one worker; what its lock says of it is for people and for a status."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
        self._waits: str | None = None
        self._write()

    def waits(self, why: str | None) -> bool:
        """Say why nothing is trained now, None: it is; whether that is new."""
        if why == self._waits:
            return False
        self._waits = why
        self._write()
        return True

    def _write(self) -> None:
        # A full disk is no reason not to serve.
        with suppress(OSError):
            self._lock.write(json.dumps({**self._holder, "waits": self._waits}))


@contextmanager
def serve_alone(home: Home) -> Iterator[Serving]:
    """Be the one worker of the queue; WorkerBusy when another is."""
    lock = try_lock(home.worker_lock, _LOCK_WAIT_S)
    if lock is None:
        raise WorkerBusy(busy_text(home))
    with lock:
        yield Serving(lock)


def holder_pid(home: Home) -> int | None:
    """The pid that the last worker wrote into its lock, dead or alive."""
    pid = _holder(home).get("pid")
    return pid if isinstance(pid, int) else None


def busy_text(home: Home) -> str:
    """Who serves the queue already."""
    holder = _holder(home)
    who = f"pid {holder.get('pid')}, since {holder.get('started')}" if holder else "another process"
    return f"a worker serves this queue already ({who}); see: grpo-sweep status"


def _holder(home: Home) -> dict[str, object]:
    return read_json(home.worker_lock) or {}
