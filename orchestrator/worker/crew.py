"""What the slots of one worker share: who trains, who decides, what was said.

Each slot is served by a thread of its own; one slot alone by the main thread. What concerns the
whole queue (which setting a search tries, who is promoted from a rung, which run comes next) one
slot decides at a time, and writes in one transaction, as if there were only one.
"""

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from orchestrator.errors import QueueBusy
from orchestrator.system.paths import Home
from orchestrator.worker.events import Event, EventKind, Listener
from orchestrator.worker.hours import Gate
from orchestrator.worker.serving import Serving
from orchestrator.worker.slots import Slot
from orchestrator.worker.standby import StandbySlot
from orchestrator.worker.termination import Stops
from orchestrator.worker.wakefulness import Wakefulness


class Abandoned(Exception):
    """Another slot has met an error, which ends the worker: its trainers are left to the next."""


@dataclass(frozen=True)
class How:
    """What all slots of a worker were told."""

    home: Home
    trainer: Sequence[str]
    frozen: bool = False
    prepares: bool = False


class Crew:
    """The slots of a worker."""

    def __init__(
        self,
        slots: Sequence[Slot],
        busy: Collection[str],
        stops: Stops,
        listen: Listener,
        gate: Gate,
    ) -> None:
        """`busy` are those in which a worker before has left a run, by name."""
        self.slots = tuple(slots)
        self.stops = stops
        self.gate = gate
        self.deciding = threading.RLock()
        """Held by the slot that decides what comes next."""
        self._heard = listen
        self._lock = threading.RLock()
        self._busy = set(busy)
        self._awake_for: set[str] = set()
        self._standbys: dict[str, StandbySlot] = {}
        self._compared: set[int] = set()
        self._idle_words = ""
        self._awake = Wakefulness(lambda text: self.listen(Event(EventKind.WAITING, text)))

    @property
    def several(self) -> bool:
        """Whether more than one run may train at once."""
        return len(self.slots) > 1

    def listen(self, event: Event) -> None:
        """Tell an event to whoever listens, one at a time."""
        with self._lock:
            self._heard(event)

    def name(self, slot: Slot, text: str) -> str:
        """A message of a slot; it says which, where there are several."""
        return f"slot {slot.name}: {text}" if self.several else text

    # --- who trains

    def begins(self, slot: Slot) -> None:
        """A run trains in a slot from now on."""
        with self._lock:
            self._busy.add(slot.name)
            self._idle_words = ""

    def ends(self, slot: Slot) -> None:
        """Nothing trains there any more."""
        with self._lock:
            self._busy.discard(slot.name)

    @property
    def busy(self) -> bool:
        """Whether a run trains in any slot."""
        return bool(self._busy)

    def all_paused(self, paused: Collection[str]) -> bool:
        """Whether no slot may take a run."""
        return all(slot.leaving or slot.name in paused for slot in self.slots)

    # --- standbys: each slot prepares another run

    def standby(self, slot: Slot, place: StandbySlot) -> None:
        """Where the standby of a slot waits."""
        with self._lock:
            self._standbys[slot.name] = place

    def prepared_elsewhere(self, slot: Slot) -> list[int]:
        """The runs for which trainers wait in other slots."""
        with self._lock:
            others = [place for name, place in self._standbys.items() if name != slot.name]
        return [place.run_id for place in others if place.run_id is not None]

    def dismiss_elsewhere(self, slot: Slot, run_id: int) -> None:
        """Dismiss the trainer that waits for a run in another slot: it trains in this one."""
        with self._lock:
            others = [place for name, place in self._standbys.items() if name != slot.name]
        for place in others:
            if place.run_id == run_id:
                place.clear()

    # --- the machine

    def hold_awake(self, slot: Slot) -> None:
        """Keep the machine awake: this slot has work."""
        with self._lock:
            self._awake_for.add(slot.name)
            self._awake.hold()

    def let_sleep(self, slot: Slot) -> None:
        """This slot has none; where no other has any either, the machine may sleep."""
        with self._lock:
            self._awake_for.discard(slot.name)
            if not self._awake_for:
                self._awake.release()

    def closed(self, serving: Serving) -> tuple[str | None, bool]:
        """Why nothing may be trained now, if so, and whether that is new."""
        with self._lock:
            why = self.gate.closed()
            return why, serving.waits(why)

    def keep(self, serving: Serving) -> str | None:
        """Stay the one worker, as `Serving.keep`; the slot that is first says it."""
        with self._lock:
            return serving.keep()

    # --- what is said once

    def first_of_sweep(self, sweep_id: int) -> bool:
        """Whether this is the sweep's first launch by this worker."""
        with self._lock:
            new = sweep_id not in self._compared
            self._compared.add(sweep_id)
            return new

    def idle(self, words: str) -> None:
        """Say why nothing trains; not while another slot trains, and each thing once."""
        with self._lock:
            if words and not self._busy and words != self._idle_words:
                self._idle_words = words
                self._heard(Event(EventKind.WAITING, words))


def serve_each(slots: Sequence[Slot], stops: Stops, serve: Callable[[Slot], None]) -> None:
    """Serve each slot in a thread of its own until all are done; raises what one of them raised.

    An error in one ends all: the others leave their trainers to the next worker.
    """
    if len(slots) == 1:
        serve(slots[0])
        return
    errors: list[BaseException] = []

    def run(slot: Slot) -> None:
        # Raised again below, in the main thread.
        try:
            serve(slot)
        except BaseException as e:  # noqa: BLE001
            errors.append(e)
            # One that the user has stopped while it waited for the queue leaves the others alone.
            stops.abandoned |= not (stops.count and isinstance(e, QueueBusy))

    threads = [
        threading.Thread(target=run, args=(slot,), name=f"slot-{slot.name}") for slot in slots
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A wait that the user has ended must not hide another error.
    for error in sorted(errors, key=lambda error: isinstance(error, QueueBusy)):
        if not isinstance(error, Abandoned):
            raise error


def left_behind(slots: Sequence[Slot], busy: Collection[str]) -> list[Slot]:
    """A slot for each run that a worker before has left in one which this worker has not."""
    others = set(busy) - {slot.name for slot in slots}
    return [Slot(name, leaving=True) for name in sorted(others)]
