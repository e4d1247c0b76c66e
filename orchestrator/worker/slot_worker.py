"""The loop of one slot: reconcile -> claim -> train, run by run.

What a dead worker left behind is adopted first: watched until its lock is free, then judged by what
it wrote. Nothing here rests on clocks or heartbeats, so a machine may sleep at any point. How an
attempt is carried out is in `attempt_runner.py`.
"""

import time

from orchestrator.errors import QueueBusy, QueueError
from orchestrator.queue.claims import Before
from orchestrator.queue.connection import MOVED
from orchestrator.queue.store import Store
from orchestrator.results.training_log import result_identity
from orchestrator.run import FIRST_SLOT, Attempt, Run, Sweep
from orchestrator.system import processes
from orchestrator.system.paths import RunPaths
from orchestrator.worker.attempt_runner import AttemptRunner
from orchestrator.worker.crew import Crew, How
from orchestrator.worker.events import Event, EventKind
from orchestrator.worker.launcher import Trainer
from orchestrator.worker.patience import Patience
from orchestrator.worker.place import Here, OnNode, TrainingPlace
from orchestrator.worker.searching import promote_from_rungs, suggest_next
from orchestrator.worker.serving import Serving
from orchestrator.worker.slots import Slot
from orchestrator.worker.standby import StandbySlot

# How often an idle worker looks at the queue.
_IDLE_S = 0.2
# How long before a run's end its successor gets ready: a trainer takes some seconds for that, and
# all the while it holds memory.
_HEAD_START_S = 60.0


def has_work(store: Store, crew: Crew) -> bool:
    """Whether a run can be claimed, now or after its back-off, or a search has more to try."""
    queries = store.queries
    if crew.all_paused(queries.paused_slots()):
        return False
    ready = queries.waiting(processes.boot_id()).ready_at is not None
    return ready or bool(queries.awaiting_suggestion() or queries.at_rung())


class SlotWorker:
    """What serves one slot."""

    def __init__(self, how: How, store: Store, crew: Crew, slot: Slot) -> None:
        self._crew = crew
        self._slot = slot
        self._standby = StandbySlot(how.home, how.trainer, slot)
        crew.standby(slot, self._standby)
        self._prepares = how.prepares and slot.node is None
        self._home = how.home
        self._store = store
        self._queries = store.queries
        self._claims = store.claims
        self._stops = crew.stops
        self._listen = crew.listen
        self._serving: Serving | None = None
        self._lock_fault = ""
        self._patience = Patience(
            store,
            crew.stops,
            lambda text: self._report(EventKind.WAITING, crew.name(slot, text)),
        )
        self._place = self._place_of(how, store)
        self._runner = AttemptRunner(
            *(how, store, crew, slot, self._patience, self._place, self._while_training)
        )

    def _place_of(self, how: How, store: Store) -> TrainingPlace:
        if self._slot.node is None:
            return Here(how, store, self._slot, self._patience, self._standby)
        assert self._crew.fleet is not None
        of = (store, self._slot, self._crew, self._crew.fleet, self._patience)
        return OnNode(*of, self._slot.node)

    def serve(self, until_empty: bool, serving: Serving) -> None:
        """Train what is queued, one run after another."""
        self._serving = serving
        try:
            self._reconcile()
            if not self._slot.leaving:
                self._serve(until_empty, serving)
        finally:
            self._standby.clear()
            self._crew.let_sleep(self._slot)

    def _serve(self, until_empty: bool, serving: Serving) -> None:
        while not self._stops.over:
            self._keep_locks()
            closed, news = self._crew.closed(self._slot, serving)
            try:
                if closed is None:
                    goes_on = self._serve_next(until_empty)
                else:
                    goes_on = self._hold_off(closed, news, until_empty)
            except QueueBusy as e:
                self._patience.wait(e)
                continue
            if not goes_on:
                return

    def _serve_next(self, until_empty: bool) -> bool:
        """Train the next run, or wait a moment; False where nothing is left to wait for."""
        with self._crew.deciding:
            suggested, claimed = self._decide()
            self._patience.over()
            if claimed is None and until_empty and not self._goes_on():
                return False
        if claimed is not None:
            try:
                self._crew.hold_awake(self._slot)
                self._runner.train(*claimed)
            finally:
                self._crew.ends(self._slot)
        # What a search chose may have been trained before: then it chooses again.
        elif not suggested:
            self._standby.clear()
            self._idle()
        return True

    def _decide(self) -> tuple[bool, tuple[Run, Attempt] | None]:
        """Whether a search has chosen a setting, and the run that trains next in this slot."""
        if not self._place.open or self._is_paused():
            return False, None
        promote_from_rungs(self._store, self._listen)
        suggested = suggest_next(self._store, self._listen)
        prepared = self._crew.prepared_elsewhere(self._slot)
        claimed = self._place.claim(self._before, prepared)
        if claimed is not None:
            self._crew.begins(self._slot)
            self._crew.dismiss_elsewhere(self._slot, claimed[0].id)
        return suggested, claimed

    def _hold_off(self, closed: str, news: bool, until_empty: bool) -> bool:
        """Let a moment pass while nothing may be trained; False where nothing is left anyway."""
        self._standby.clear()
        self._crew.let_sleep(self._slot)
        if news:
            self._report(EventKind.WAITING, f"waits {closed}")
        if until_empty and not self._goes_on():
            return False
        time.sleep(_IDLE_S)
        return True

    def _goes_on(self) -> bool:
        """Whether something is left for this slot: what trains in another may bring it more."""
        with self._crew.deciding:
            return self._crew.busy or has_work(self._store, self._crew)

    def _is_paused(self) -> bool:
        return bool({self._slot.name, self._slot.node} & {*self._queries.paused_slots()})

    def tidy(self) -> None:
        """Settle a running run that has ended, or that is asked to end."""
        left = self._running()
        if left is None:
            return
        run, attempt, sweep = left
        trainer = self._place.adopt(run, attempt)
        if trainer.wait(0) or run.request is not None:
            self._runner.follow(run, attempt, trainer, sweep)

    def _before(self, run: Run) -> Before:
        checkpoint = RunPaths(run.folder).newest_checkpoint()
        log = str(self._home.attempt_log(run.id, run.attempt))
        return Before(checkpoint, result_identity(run.folder), log)

    def _reconcile(self) -> None:
        """Take over what a dead worker left: a live trainer, or what nobody read of one."""
        try:
            left = self._patience.insist(self._running)
            if left is None:
                return
            run, attempt, sweep = left
            trainer = self._place.adopt(run, attempt)
            if not trainer.wait(0):
                self._crew.hold_awake(self._slot)
                words = f"trains on ({self._place.where(trainer)})"
                self._report(EventKind.ADOPTED, words, run)
            self._runner.follow(run, attempt, trainer, sweep)
        finally:
            self._crew.ends(self._slot)

    def _running(self) -> tuple[Run, Attempt, Sweep] | None:
        """The run that runs in this slot, with all that is needed to watch it."""
        for run in self._queries.running():
            if (run.slot or FIRST_SLOT) == self._slot.name:
                return run, self._queries.attempts(run.id)[-1], self._queries.sweep_of(run)
        return None

    def _while_training(self, trainer: Trainer, left_s: float | None) -> None:
        self._keep_locks(trainer)
        self._prepare(left_s)

    def _prepare(self, left_s: float | None) -> None:
        """Prepare the trainer of the run that comes next, once it is nearly its turn."""
        if not self._prepares or left_s is None or left_s > _HEAD_START_S or self._stops.count:
            return
        # What another slot decides just now may take long, and is looked at again in a moment.
        if self._slot.leaving or not self._crew.deciding.acquire(blocking=False):
            return
        try:
            with self._patience.skip():
                self._prepare_next()
        finally:
            self._crew.deciding.release()

    def _prepare_next(self) -> None:
        run = self._claims.coming(self._place.boot_id, self._crew.prepared_elsewhere(self._slot))
        if self._standby.holds(run):
            return
        self._standby.clear()
        if run is None or processes.is_memory_low():
            return
        sweep, earlier = self._queries.sweep_of(run), self._queries.attempts(run.id)
        pid = self._standby.put(run, sweep, earlier)
        if pid is not None:
            self._report(EventKind.PREPARED, f"standby (pid {pid})", run)

    def _keep_locks(self, trainer: Trainer | None = None) -> None:
        """Hold them though their files were removed or replaced.

        Raises WorkerBusy where another worker has come in between, and QueueError where the queue
        itself is gone: whoever queues runs anew would wait for ever.
        """
        if not self._store.in_place:
            alone = f"; its trainer (pid {trainer.pid}) goes on alone" if trainer else ""
            raise QueueError(f"{self._store.path}: {MOVED}: the worker ends{alone}")
        try:
            if trainer is not None:
                trainer.keep()
            said = self._crew.keep(self._serving) if self._serving else None
        except QueueError as e:
            said = f"a lock was removed, and cannot be made anew: {e}"
        if said and said != self._lock_fault:
            self._report(EventKind.WAITING, said)
        self._lock_fault = said or ""

    def _idle(self) -> None:
        waiting = self._queries.waiting(processes.boot_id())
        paused = self._is_paused()
        # Left is what waits for its back-off; what is held or paused may stay so for days.
        if waiting.ready_at is not None and not paused:
            self._crew.hold_awake(self._slot)
        else:
            self._crew.let_sleep(self._slot)
        words = "; ".join(waiting.held) if waiting.queued else "nothing is queued"
        self._crew.idle(words)
        time.sleep(_IDLE_S)

    def _report(self, kind: EventKind, text: str, run: Run | None = None) -> None:
        self._listen(Event(kind, text, run))
