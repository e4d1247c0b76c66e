"""The agent of a node: trains what the head orders, and keeps its files until the head has them.

It answers and never asks: what becomes of a run is decided on the head. A trainer lives on when the
agent dies, and the next one in the same folder takes it over. The calls are those of `Node`; what
carries them is another module's.
"""

import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from grpo_core.run.atomic import TEMPORARY, read_json, remove
from grpo_core.run.protocol import package_versions
from orchestrator.cluster.attempt_here import AttemptHere, Place, make_place
from orchestrator.cluster.codec import NotOurs, read
from orchestrator.cluster.contents import KEEP_BYTES, Contents
from orchestrator.cluster.hardware import Hardware, look_at_hardware
from orchestrator.errors import QueueError, SweepError, WorkerBusy
from orchestrator.run import stamp
from orchestrator.system import processes
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.locks import FileLock, try_lock
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.nodes import (
    AttemptReport,
    Held,
    Input,
    NodeFacts,
    NodeRefused,
    Order,
    Wish,
)
from orchestrator.worker.slots import Slot

# How often it looks at its trainers and their files.
_TEND_S = 0.2
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,128}")


class Agent:
    """A `Node` for the machine on which it runs; its calls may come from several threads."""

    def __init__(
        self,
        folder: Path,
        name: str,
        slots: Sequence[Slot] = (Slot(),),
        trainer: Sequence[str] = TRAINER,
        *,
        hardware: Hardware | None = None,
        keep_bytes: int = KEEP_BYTES,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Take the folder, and over what an agent before has left in it.

        Without `hardware` it is looked for. Raises WorkerBusy where another agent has the folder,
        and QueueError where the folder cannot be used.
        """
        self.name = name
        self._slots = {slot.name: slot for slot in slots}
        self._trainer = tuple(trainer)
        self._say = say
        self._folder = folder
        self._leaving = False
        self._said: set[str] = set()
        self._lock = threading.Lock()
        self._changing = threading.Lock()
        """Held while an attempt is begun or forgotten, which may take a while."""
        self._held: dict[str, AttemptHere] = {}
        self._folder_lock = _take(folder)
        try:
            first = slots[0].env if slots else {}
            self._hardware = hardware or look_at_hardware(len(slots), {**os.environ, **first})
            self._contents = Contents(folder / "contents", keep_bytes)
            self._attempts = folder / "attempts"
            self._attempts.mkdir(mode=0o700, exist_ok=True)
            self._take_over()
            self._contents.trim()
        except OSError as e:
            self._folder_lock.release()
            raise QueueError(f"{e.filename or folder}: {e.strerror}") from None
        except SweepError:
            self._folder_lock.release()
            raise
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tend, name=f"node-{name}", daemon=True)
        self._thread.start()

    # --- the calls of the head

    def facts(self) -> NodeFacts:
        """See Node; without slots while it leaves."""
        versions = package_versions(("grpo-sweep", "mlx"))
        return NodeFacts(
            name=self.name,
            slots=() if self._leaving else tuple(self._slots),
            version=versions.get("grpo-sweep", ""),
            mlx=versions.get("mlx", ""),
            backend=self._hardware.backend,
            host=socket.gethostname(),
            boot_id=processes.boot_id(),
            memory_bytes=self._hardware.memory_bytes,
            disk_free_bytes=shutil.disk_usage(self._folder).free,
            clock=stamp(datetime.now(UTC)),
        )

    def held(self) -> Sequence[Held]:
        """See Node."""
        with self._lock:
            return [attempt.held for attempt in self._held.values()]

    def lacks(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """See Node."""
        return self._contents.lacks(inputs)

    def put(self, file: Input, offset: int, data: bytes) -> None:
        """See Node."""
        self._contents.put(file, offset, data)

    def start(self, order: Order) -> None:
        """See Node."""
        if not _TOKEN.fullmatch(order.token):
            raise NodeRefused(f"{order.token!r}: no token of an attempt")
        with self._changing:
            if order.token in self._held:
                return
            slot = self._may_start(order)
            attempt = self._make(order)
            crashpoint("node.laid")
            # Held before there is a trainer: what goes wrong, none lives that nobody can end.
            with self._lock:
                self._held[order.token] = attempt
            try:
                attempt.launch(self._trainer, slot.env)
            except (OSError, SweepError) as e:
                self._drop(attempt)
                words = e.strerror if isinstance(e, OSError) else e
                raise NodeRefused(f"{self.name}: no trainer can be started: {words}") from None
            # What only this attempt goes on from.
            self._contents.drop(order.files)

    def look(self, token: str) -> AttemptReport:
        """See Node."""
        attempt = self._attempt(token)
        if not self._thread.is_alive():
            raise NodeRefused(f"{self.name}: its agent does not look after its trainers any more")
        return attempt.report

    def read(self, token: str, path: str, offset: int, size: int) -> bytes:
        """See Node."""
        return self._attempt(token).read(path, offset, size)

    def ask(self, token: str, wish: Wish) -> None:
        """See Node."""
        self._attempt(token).ask(wish)

    def forget(self, token: str) -> None:
        """See Node."""
        with self._changing:
            attempt = self._held.get(token)
            if attempt is None:
                return
            self._drop(attempt)
        self._contents.trim()

    # --- for the process in which it runs

    def drain(self) -> None:
        """Take nothing more, and let every trainer checkpoint and end: the head fetches the files.

        It may end once `held` says nothing.
        """
        self._leaving = True
        # After the start that goes on just now, if one does.
        with self._changing, self._lock:
            held = list(self._held.values())
        for attempt in held:
            attempt.ask(Wish.INTERRUPT)

    def offer(self) -> None:
        """Take orders again, after `drain`."""
        self._leaving = False

    def close(self) -> None:
        """Leave everything to the next agent in this folder; the trainers train on."""
        self._over.set()
        self._thread.join()
        for attempt in self._held.values():
            attempt.close()
        self._folder_lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside

    def _attempt(self, token: str) -> AttemptHere:
        with self._lock:
            attempt = self._held.get(token)
        if attempt is None:
            raise NodeRefused(f"{self.name}: knows of no such attempt")
        return attempt

    def _drop(self, attempt: AttemptHere) -> None:
        """End it and hold it no longer; OSError or NodeRefused: it is still held."""
        attempt.remove()
        with self._lock:
            del self._held[attempt.order.token]

    def _may_start(self, order: Order) -> Slot:
        """The slot of an order that may be carried out; NodeRefused."""
        if self._leaving:
            raise NodeRefused(
                f"{self.name}: takes no run now: it leaves the cluster, or these are not its hours"
            )
        slot = self._slots.get(order.slot)
        if slot is None:
            raise NodeRefused(f"{self.name}: has no slot {order.slot}; it has {[*self._slots]}")
        for other in self._held.values():
            of = other.order
            if of.run == order.run and of.n > order.n:
                words = f"holds attempt {of.n} of run {of.run}: attempt {order.n} is an older one"
                raise NodeRefused(f"{self.name}: {words}")
            if other.running and (of.run == order.run or of.slot == order.slot):
                words = f"attempt {of.n} of run {of.run} still runs in slot {of.slot}"
                raise NodeRefused(f"{self.name}: {words}")
        if difference := _other_version(order.packages):
            raise NodeRefused(f"{self.name}: {difference}")
        if lacking := self._contents.lacks((*order.inputs, *order.files)):
            raise NodeRefused(f"{self.name}: lacks {lacking[0].path}, {len(lacking)} in all")
        return slot

    def _make(self, order: Order) -> AttemptHere:
        """The attempt with its files, whole or not there; NodeRefused."""
        folder = self._attempts / order.token
        beside = folder.with_name(TEMPORARY + order.token)
        try:
            remove(beside)
            make_place(beside, order, self._contents)
            os.rename(beside, folder)
        except OSError as e:
            remove(beside)
            words = f"{e.filename or folder}: {e.strerror}"
            raise NodeRefused(f"{self.name}: the files cannot be laid out: {words}") from None
        return AttemptHere(Place(folder), order)

    def _take_over(self) -> None:
        for folder in sorted(self._attempts.iterdir()):
            if folder.name.startswith(TEMPORARY):
                remove(folder)
                continue
            place = Place(folder)
            document = read_json(place.order)
            if document is None:
                self._say(f"{place.order}: cannot be read; the attempt is left as it is")
                continue
            try:
                attempt = AttemptHere(place, read(Order, document))
            except NotOurs as e:
                self._say(f"{place.order}: of another version ({e}); the attempt is left as it is")
                continue
            attempt.adopt()
            self._held[folder.name] = attempt
            self._look_after(attempt)

    def _tend(self) -> None:
        """Look after what runs, whether the head asks or not."""
        while not self._over.wait(_TEND_S):
            with self._lock:
                held = list(self._held.values())
            for attempt in held:
                self._look_after(attempt)

    def _look_after(self, attempt: AttemptHere) -> None:
        try:
            attempt.tend()
        except (OSError, QueueError) as e:
            # A full disk, maybe: it is tried again.
            self._say_once(f"attempt {attempt.order.n} of run {attempt.order.run}: {e}")
        # Whatever it is: the thread that looks after all attempts goes on, or each of them would
        # seem lost to the head while its trainer trains.
        except Exception as e:  # noqa: BLE001
            kind = type(e).__name__
            self._say_once(f"attempt {attempt.order.n} of run {attempt.order.run}: {kind}: {e}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)


def _other_version(wanted: Mapping[str, str]) -> str:
    """Which package is not as the run wants it; empty where all are."""
    here = package_versions(wanted)
    for name, version in wanted.items():
        if here.get(name) != version:
            return f"has {name} {here[name]}, not {version}" if name in here else f"lacks {name}"
    return ""


def _take(folder: Path) -> FileLock:
    """The lock of a node's folder, which is made; WorkerBusy or QueueError."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise QueueError(f"{e.filename or folder}: the folder of the node: {e.strerror}") from None
    lock = try_lock(folder / "agent.lock")
    if lock is None:
        raise WorkerBusy(f"{folder}: another node of this name runs on this machine")
    with suppress(OSError):  # It is for people: a full disk is no reason to end.
        lock.write(f"pid {os.getpid()}\n")
    return lock
