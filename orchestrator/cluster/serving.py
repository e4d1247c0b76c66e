"""Which scheduler and which nodes this home has running, and how they are asked to end.

Known by locks, as a worker is; without the engine, so that who only asks need not load it.
"""

import json
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.cluster.address import Address
from orchestrator.errors import NothingAffected, SweepError, UsageError
from orchestrator.system.holders import holder_of, living_pid, this_process
from orchestrator.system.locks import FileLock, is_held, try_lock
from orchestrator.system.paths import Home
from orchestrator.system.processes import signal_process
from orchestrator.worker.nodes import NODE_NAME

# A command that asks "is it held?" holds the lock for an instant.
_LOCK_WAIT_S = 1.0
_POLL_S = 0.05


@dataclass(frozen=True)
class Running:
    """A scheduler or a node of this home that runs."""

    pid: int | None
    """None where its lock names no process of this machine that lives."""
    address: Address | None
    """Where the scheduler listens, as this machine reaches it; None until it does."""

    @property
    def who(self) -> str:
        """As people read it."""
        return "pid unknown" if self.pid is None else f"pid {self.pid}"


def running(lock: Path) -> Running | None:
    """What holds a lock, if something does."""
    if not is_held(lock):
        return None
    holder = holder_of(lock)
    text = holder.get("address")
    return Running(living_pid(holder), Address.parse(text) if isinstance(text, str) else None)


class Holding:
    """A lock that this process holds; `say` writes more into it."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock
        self.say()

    def say(self, **more: Any) -> None:
        """Write which process this is, and what others need to know."""
        # A full disk is no reason to end.
        with suppress(OSError):
            self._lock.write(json.dumps({**this_process(), **more}))


@contextmanager
def hold(lock: Path, what: str) -> Iterator[Holding]:
    """Be the one scheduler, or the one node of a name; NothingAffected where another is."""
    lock.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = try_lock(lock, _LOCK_WAIT_S)
    if held is None:
        who = (running(lock) or Running(None, None)).who
        raise NothingAffected(f"{what} runs already ({who})")
    with held:
        yield Holding(held)


def ask_to_end(lock: Path, what: str) -> Running:
    """Ask what holds the lock to end; NothingAffected, SweepError."""
    found = running(lock)
    if found is None:
        raise NothingAffected(f"{what} does not run here")
    if found.pid is None:
        raise SweepError(f"{what}: its lock {lock} names no process that lives here")
    signal_process(found.pid, signal.SIGTERM)
    # A suspended one hears nothing.
    signal_process(found.pid, signal.SIGCONT)
    return found


def stop(lock: Path, what: str) -> None:
    """Ask what holds the lock to end, and wait until it has; NothingAffected, SweepError."""
    await_end(lock, ask_to_end(lock, what))


def await_end(lock: Path, found: Running) -> None:
    """Wait until it has ended."""
    while (now := running(lock)) is not None and now.pid == found.pid:
        time.sleep(_POLL_S)


def local_cluster(home: Home) -> Address:
    """Where the scheduler of this home listens; UsageError where none runs."""
    found = running(home.cluster_lock)
    if found is None or found.address is None:
        raise UsageError(
            "no cluster runs here: name its address, HOST:PORT, or start one: grpo-sweep cluster up"
        )
    return found.address


def check_name(name: str) -> str:
    """The name of a node; UsageError where it cannot be one."""
    if not NODE_NAME.fullmatch(name):
        raise UsageError(
            f"--name {name}: letters, digits, dot, dash and underscore, at most 64 of them, and no"
            " number, which is a slot of the head itself"
        )
    return name


def default_name(host: str) -> str:
    """A node's name, made of what its machine is called."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", host.partition(".")[0]).strip("-_")[:64]
    return name if NODE_NAME.fullmatch(name) else f"node{name[:60]}"


def local_nodes(home: Home) -> list[str]:
    """The names of the nodes of this home that run."""
    locks = sorted((home.root / "locks").glob("node-*.lock"))
    return [lock.stem.removeprefix("node-") for lock in locks if is_held(lock)]
