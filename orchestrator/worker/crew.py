"""What the slots of one worker share: who trains, who decides, what was said.

Each slot is served by a thread of its own; one slot alone by the main thread. With a cluster slots
come while others are served, and the main thread looks who is there. What concerns the whole queue
(which setting a search tries, who is promoted from a rung, which run comes next) one slot decides
at a time, and writes in one transaction, as if there were only one.
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from orchestrator.errors import QueueBusy
from orchestrator.run import Run
from orchestrator.system.paths import Home
from orchestrator.worker.events import Event, EventKind, Listener
from orchestrator.worker.fleet import Fleet
from orchestrator.worker.hours import Gate
from orchestrator.worker.serving import Serving
from orchestrator.worker.slots import Slot
from orchestrator.worker.standby import StandbySlot
from orchestrator.worker.termination import Stops
from orchestrator.worker.wakefulness import Wakefulness

# How often it is looked whether a slot came.
_ARRIVALS_S = 0.2


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
        fleet: Fleet | None = None,
    ) -> None:
        """`busy` are those in which a worker before has left a run, by name.

        With a `fleet` the slots of its nodes come on top.
        """
        self._slots = list(slots)
        self.fleet = fleet
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
    def slots(self) -> tuple[Slot, ...]:
        """All that there are by now."""
        with self._lock:
            return tuple(self._slots)

    @property
    def several(self) -> bool:
        """Whether more than one run may train at once."""
        return self.fleet is not None or len(self._slots) > 1

    def newcomers(self) -> list[Slot]:
        """The slots that nodes have brought since the last time."""
        if self.fleet is None:
            return []
        with self._lock:
            known = {slot.name for slot in self._slots}
            new = [
                Slot(name, node=name.partition("/")[0])
                for name in self.fleet.slots()
                if name not in known
            ]
            self._slots += new
        return new

    def listen(self, event: Event) -> None:
        """Tell an event to whoever listens."""
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
        """Whether no slot may take a run; those that nodes may still bring count as open."""
        slots = self.slots
        if self.fleet is not None and not slots:
            return False
        return all(slot.leaving or {slot.name, slot.node} & {*paused} for slot in slots)

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

    def gate_of(self, slot: Slot) -> Callable[[], str | None]:
        """Why nothing may be trained in a slot now, if so: asked again and again."""
        return self.gate.closed if slot.node is None else self.gate.closed_elsewhere

    def closed(self, slot: Slot, serving: Serving) -> tuple[str | None, bool]:
        """Why nothing may be trained in a slot now, if so, and whether that is new."""
        with self._lock:
            why = self.gate_of(slot)()
            # What keeps this machine from training is told by its own slots.
            tells = slot.node is None or all(other.node for other in self._slots)
            return why, tells and serving.waits(why)

    def keep(self, serving: Serving) -> str | None:
        """Stay the one worker, as `Serving.keep`; the slot that is first says it."""
        with self._lock:
            return serving.keep()

    def offer(self, serving: Serving) -> None:
        """Say which slots and nodes there are."""
        if self.fleet is None:
            return
        with self._lock:
            own = [slot.name for slot in self._slots if slot.node is None and not slot.leaving]
            serving.offer([*own, *self.fleet.offered()], self.fleet.statuses())

    # --- what is said once

    def first_of_sweep(self, sweep_id: int) -> bool:
        """Whether this is the sweep's first launch by this worker."""
        with self._lock:
            new = sweep_id not in self._compared
            self._compared.add(sweep_id)
            return new

    def say_waits(self, text: str, run: Run | None = None) -> None:
        """Say what is waited for."""
        self.listen(Event(EventKind.WAITING, text, run))

    def idle(self, words: str) -> None:
        """Say why nothing trains; not while another slot trains, and each thing once."""
        with self._lock:
            if words and not self._busy and words != self._idle_words:
                self._idle_words = words
                self._heard(Event(EventKind.WAITING, words))


@dataclass(frozen=True)
class Arrivals:
    """Slots that come while others are served."""

    look: Callable[[], Sequence[Slot]]
    """Those that came since; asked all the time."""
    over: Callable[[], bool]
    """Whether none is waited for any more, where there was none yet."""


def serve_each(
    slots: Sequence[Slot],
    stops: Stops,
    serve: Callable[[Slot], None],
    arrivals: Arrivals | None = None,
) -> None:
    """Serve each slot in a thread of its own until all are done; raises what one of them raised.

    An error in one ends all: the others leave their trainers to the next worker. With `arrivals`
    also those that come meanwhile.
    """
    if len(slots) == 1 and arrivals is None:
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

    threads = _start(run, slots)
    try:
        while arrivals is not None and not stops.abandoned:
            threads += _start(run, arrivals.look())
            if not any(thread.is_alive() for thread in threads) and (threads or arrivals.over()):
                break
            time.sleep(_ARRIVALS_S)
    # Whatever ends the look for new slots ends the worker: its threads must not serve on alone.
    except BaseException:
        stops.abandoned = True
        raise
    finally:
        for thread in threads:
            thread.join()
    # A wait that the user has ended must not hide another error.
    for error in sorted(errors, key=lambda error: isinstance(error, QueueBusy)):
        if not isinstance(error, Abandoned):
            raise error


def _start(run: Callable[[Slot], None], slots: Sequence[Slot]) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=run, args=(slot,), name=f"slot-{slot.name}") for slot in slots
    ]
    for thread in threads:
        thread.start()
    return threads


def left_behind(slots: Sequence[Slot], busy: Collection[str]) -> list[Slot]:
    """A slot for each run that a worker before has left in one which this worker has not."""
    others = set(busy) - {slot.name for slot in slots}
    return [Slot(name, leaving=True) for name in sorted(others)]
