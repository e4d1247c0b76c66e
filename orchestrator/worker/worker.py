"""The worker: serves the queue by its slots until nothing is left, or settles what one left.

One worker a queue, by flock. Each of its slots goes through a loop of its own (`slot_worker.py`);
what they share is in `crew.py`.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from grpo_core.errors import ExitCode
from orchestrator.errors import QueueBusy, WorkerBusy
from orchestrator.queue.store import Store
from orchestrator.run import FIRST_SLOT
from orchestrator.system import paths
from orchestrator.system.paths import Home
from orchestrator.worker.crew import Arrivals, Crew, How, left_behind, serve_each
from orchestrator.worker.events import Event, EventKind, Listener, one_at_a_time
from orchestrator.worker.fleet import Fleet
from orchestrator.worker.hours import Gate
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.nodes import Cluster
from orchestrator.worker.patience import TRY_S, Patience
from orchestrator.worker.serving import Serving, serve_alone
from orchestrator.worker.slot_worker import SlotWorker, has_work
from orchestrator.worker.slots import Slot, Slots
from orchestrator.worker.standby import affordable
from orchestrator.worker.termination import Stops, stop_signals


def work(
    home: Home | None = None,
    *,
    until_empty: bool = False,
    on_event: Listener | None = None,
    trainer: Sequence[str] = TRAINER,
    frozen: bool = False,
    prewarm: bool | None = None,
    gate: Gate | None = None,
    slots: Slots | None = None,
    cluster: Cluster | None = None,
) -> int:
    """Serve the queue until stopped, or until nothing is left that could run.

    With `frozen` a sweep is held where something has changed since its submit. With `prewarm` the
    next trainer is prepared while one trains; None: where the machine has memory for it. While the
    `gate` is closed nothing is trained. In each of the `slots` one run trains at a time; None: one,
    or with a `cluster` none but those of its nodes, which come and go.

    Returns 0, or 75 when a signal stopped it. Raises WorkerBusy when another worker serves this
    queue, and QueueError when the queue cannot be used.
    """
    home = (home or paths.home()).make()
    listen = one_at_a_time(on_event or (lambda event: None))
    own = () if slots is None and cluster else (slots or Slots()).each()
    fleet = Fleet(cluster, listen) if cluster else None
    prepares = affordable(len(own)) if prewarm is None else prewarm
    how = How(home, trainer, frozen, prepares)
    with Store.open(home.db) as store, stop_signals() as stops, store.patience(TRY_S):
        try:
            while True:
                with serve_alone(home, [slot.name for slot in own]) as serving:
                    crew = _crew(store, own, stops, listen, gate or Gate(), fleet)
                    _serve(how, crew, store, until_empty, serving)
                # A sweep that came while we let go of the lock has seen that a worker is there.
                if stops.count or not _has_work(store, crew):
                    break
        except QueueBusy:
            # A stop ends also the wait for a queue that others hold.
            if not stops.count:
                raise
        listen(Event(EventKind.STOPPED if stops.count else EventKind.EMPTY, "the worker ends"))
    return ExitCode.INTERRUPTED if stops.count else 0


def tidy(home: Home | None = None) -> None:
    """In the absence of a worker: end a run that is asked to end, record one that has ended.

    Does nothing while a worker serves the queue, and starts no run.
    """
    home = (home or paths.home()).make()
    try:
        with serve_alone(home), Store.open(home.db) as store, stop_signals() as stops:
            crew = _crew(store, (), stops, lambda event: None, Gate())
            how = How(home, TRAINER)
            serve_each(crew.slots, stops, lambda slot: _tidy(how, crew, store, slot))
    except WorkerBusy:
        return


def _crew(
    store: Store,
    own: Sequence[Slot],
    stops: Stops,
    listen: Listener,
    gate: Gate,
    fleet: Fleet | None = None,
) -> Crew:
    """The worker's own slots, and those in which a worker before has left a run.

    What trains on a node is left to a worker with a cluster.
    """
    patience = Patience(store, stops, lambda text: listen(Event(EventKind.WAITING, text)))
    here, away = patience.insist(lambda: _running_slots(store))
    crew = Crew((*own, *left_behind(own, here)), here, stops, listen, gate, fleet)
    if fleet is not None:
        fleet.expect(away)
        for name in away:
            crew.begins(Slot(name))
    elif away:
        where = ", ".join(away)
        crew.say_waits(f"a run trains on {where}: grpo-sweep work --cluster follows it")
    return crew


def _running_slots(store: Store) -> tuple[list[str], list[str]]:
    """The slots in which runs run: of this machine, and of nodes."""
    here: list[str] = []
    away: list[str] = []
    for run in store.queries.running():
        slots = here if store.queries.attempts(run.id)[-1].node is None else away
        slots.append(run.slot or FIRST_SLOT)
    return here, away


def _has_work(store: Store, crew: Crew) -> bool:
    patience = Patience(store, crew.stops, crew.say_waits)
    return patience.insist(lambda: has_work(store, crew))


def _serve(how: How, crew: Crew, store: Store, until_empty: bool, serving: Serving) -> None:
    """Serve every slot until stopped, or until nothing is left for any."""

    def serve(slot: Slot) -> None:
        with _own_store(how, crew, store) as own, own.patience(TRY_S):
            SlotWorker(how, own, crew, slot).serve(until_empty, serving)

    patience = Patience(store, crew.stops, crew.say_waits)
    patience.insist(store.duplicates.read_values)
    serve_each(crew.slots, crew.stops, serve, _arrivals(crew, store, until_empty, serving))


def _arrivals(crew: Crew, store: Store, until_empty: bool, serving: Serving) -> Arrivals | None:
    """The slots that nodes bring while the worker serves."""
    fleet = crew.fleet
    if fleet is None:
        return None

    def look() -> Sequence[Slot]:
        if fleet.look(store):
            crew.keep(serving)
            crew.offer(serving)
        return crew.newcomers()

    def over() -> bool:
        return crew.stops.over or (until_empty and not _has_work(store, crew))

    return Arrivals(look, over)


def _tidy(how: How, crew: Crew, store: Store, slot: Slot) -> None:
    with _own_store(how, crew, store) as own:
        SlotWorker(how, own, crew, slot).tidy()


def _own_store(how: How, crew: Crew, store: Store) -> AbstractContextManager[Store]:
    """A connection for a slot; threads cannot share one."""
    return Store.open(how.home.db) if crew.several else nullcontext(store)
