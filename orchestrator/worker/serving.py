"""Whether a worker serves the queue, and which one; known by a lock that only one can hold.

Apart from the worker itself because a status asks for it, and must not wait for all that a worker
loads.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass

from orchestrator.errors import NothingAffected, SweepError, WorkerBusy
from orchestrator.run import FIRST_SLOT
from orchestrator.system import paths
from orchestrator.system.holders import holder_of, living_pid, this_process
from orchestrator.system.locks import FileLock, is_held, try_lock
from orchestrator.system.paths import Home
from orchestrator.system.processes import is_stopped

# In the environment of a worker that the system's service manager starts.
ENV_SERVICE = "GRPO_SWEEP_SERVICE"

# A command that asks "is it held?" holds the lock for an instant.
_LOCK_WAIT_S = 1.0


@dataclass(frozen=True)
class NodeStatus:
    """A node of the cluster, as the worker last knew it."""

    name: str
    host: str = ""
    backend: str = ""
    memory_bytes: int = 0
    """What a trainer may use in one of its slots."""
    slots: int = 0
    """How many it offers."""
    away_since: str | None = None
    """Since when it does not answer (ISO 8601 in UTC, by the clock of the worker)."""
    unfit: str | None = None
    """Why it gets no run."""


@dataclass(frozen=True)
class ServingWorker:
    """The worker that serves the queue; `waits` is why it starts nothing now, and until when."""

    pid: int | None
    """None where its lock names no process of this machine that lives."""
    stopped: bool = False
    """Suspended, as by Ctrl-Z."""
    waits: str | None = None
    slots: tuple[str, ...] = (FIRST_SLOT,)
    """The names of its slots, those of the nodes that are there included."""
    nodes: tuple[NodeStatus, ...] = ()

    @property
    def pausable(self) -> tuple[str, ...]:
        """What `pause --slot` may name: a slot, or a node with all of its own."""
        return (*self.slots, *(node.name for node in self.nodes))

    @property
    def who(self) -> str:
        """As people read it."""
        return "pid unknown" if self.pid is None else f"pid {self.pid}"


def serving_worker(home: Home | None = None) -> ServingWorker | None:
    """The worker that serves the queue, if one does."""
    home = home or paths.home()
    if not is_served(home):
        return None
    holder = holder_of(home.worker_lock)
    if (pid := living_pid(holder)) is None:
        return ServingWorker(None)
    waits, slots, nodes = (holder.get(key) for key in ("waits", "slots", "nodes"))
    return ServingWorker(
        pid,
        is_stopped(pid),
        waits if isinstance(waits, str) else None,
        tuple(map(str, slots)) if isinstance(slots, list) else (FIRST_SLOT,),
        _nodes(nodes),
    )


def _nodes(said: object) -> tuple[NodeStatus, ...]:
    """The nodes as the worker says them; none where it is of another version."""
    try:
        return tuple(NodeStatus(**node) for node in said) if isinstance(said, list) else ()
    except TypeError:
        return ()


def is_served(home: Home | None = None) -> bool:
    """Whether a worker serves the queue, known or not."""
    return is_held((home or paths.home()).worker_lock)


def worker_alive(home: Home | None = None) -> int | None:
    """The pid of the worker that serves the queue; None where none does, or none is known."""
    home = home or paths.home()
    return living_pid(holder_of(home.worker_lock)) if is_served(home) else None


def worker_to_stop(home: Home | None = None) -> int:
    """The pid of the worker that serves the queue, for a signal.

    Raises NothingAffected where none serves, and SweepError where nobody knows which process it is:
    its pid alone could be another's by now.
    """
    worker = serving_worker(home)
    if worker is None:
        raise NothingAffected("no worker runs")
    if worker.pid is None:
        raise SweepError(
            "a worker serves this queue, but its lock names no process that lives here:"
            " it has just started, runs on another machine, or found the disk full;"
            " stop it where it was started"
        )
    return worker.pid


class Serving:
    """Held by the one worker; its lock says which process that is, for people and for signals."""

    def __init__(self, lock: FileLock, slots: Sequence[str] = (FIRST_SLOT,)) -> None:
        self._lock = lock
        self._holder = this_process()
        if (*slots,) != (FIRST_SLOT,):
            self._holder["slots"] = [*slots]
        self._waits: str | None = None
        self._write()

    def waits(self, why: str | None) -> bool:
        """Say why nothing is trained now, None: it is; whether that is new."""
        if why == self._waits:
            return False
        self._waits = why
        self._write()
        return True

    def offer(self, slots: Sequence[str], nodes: Sequence[NodeStatus]) -> None:
        """Say which slots there are by now, and which nodes."""
        now = {"slots": [*slots], "nodes": [asdict(node) for node in nodes]}
        if any(self._holder.get(key) != value for key, value in now.items()):
            self._holder |= now
            self._write()

    def keep(self) -> str | None:
        """Stay the one worker though the lock's file was removed or replaced; what to say of it.

        Raises WorkerBusy where another worker was faster, QueueError where it cannot be made anew.
        """
        if self._lock.in_place:
            return None
        if not self._lock.keep():
            raise WorkerBusy(
                f"{self._lock.path} was removed or replaced, and another worker took its place: "
                "this one ends, and whatever trains is the other's now"
            )
        self._write()
        return f"{self._lock.path} was removed or replaced: this worker holds the new file as well"

    def _write(self) -> None:
        # A full disk is no reason not to serve.
        with suppress(OSError):
            self._lock.write(json.dumps({**self._holder, "waits": self._waits}))


@contextmanager
def serve_alone(home: Home, slots: Sequence[str] = (FIRST_SLOT,)) -> Iterator[Serving]:
    """Be the one worker of the queue, with these slots; WorkerBusy when another is."""
    lock = try_lock(home.worker_lock, _LOCK_WAIT_S)
    if lock is None:
        raise WorkerBusy(busy_text(home))
    with lock:
        yield Serving(lock, slots)


def holder_pid(home: Home) -> int | None:
    """The pid that the last worker wrote into its lock, dead or alive."""
    pid = holder_of(home.worker_lock).get("pid")
    return pid if isinstance(pid, int) else None


def busy_text(home: Home) -> str:
    """Who serves the queue already."""
    holder = holder_of(home.worker_lock)
    who = f"pid {holder.get('pid')}, since {holder.get('started')}" if holder else "another process"
    return f"a worker serves this queue already ({who}); see: grpo-sweep status"
