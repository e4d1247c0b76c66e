"""The loop of one slot: reconcile -> claim -> launch -> watch -> record, run by run.

A trainer that a dead worker left behind is adopted: watched until its lock is free, then judged by
what it wrote. Nothing here rests on clocks or heartbeats, so a machine may sleep at any point. What
is looked at meanwhile is in `monitor.py`, what an ending means in `verdict.py`, what is written in
`claims.py`, how processes are handled in `launcher.py`.
"""

import socket
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from orchestrator.errors import QueueBusy, QueueError
from orchestrator.plan.environment import differences, kept
from orchestrator.plan.provenance import changes, reads_the_same
from orchestrator.queue.claims import Before
from orchestrator.queue.connection import MOVED
from orchestrator.queue.store import Store
from orchestrator.results.objective import read_value
from orchestrator.results.training_log import read_progress, read_result, result_identity
from orchestrator.run import (
    FIRST_SLOT,
    Attempt,
    HoldCode,
    Outcome,
    Progress,
    Run,
    StopRequest,
    Sweep,
    Verdict,
)
from orchestrator.system import processes
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.paths import RunPaths
from orchestrator.worker.attempt_log import note, read_tail
from orchestrator.worker.crew import Abandoned, Crew, How
from orchestrator.worker.events import Event, EventKind
from orchestrator.worker.launcher import (
    Adopted,
    Launched,
    LaunchError,
    Trainer,
    freeze_config,
    launch,
)
from orchestrator.worker.monitor import RunMonitor
from orchestrator.worker.patience import TRY_S, Patience
from orchestrator.worker.searching import promote_from_rungs, suggest_next
from orchestrator.worker.serving import Serving
from orchestrator.worker.slots import Slot
from orchestrator.worker.standby import Standby, StandbySlot
from orchestrator.worker.termination import Terminator
from orchestrator.worker.verdict import Ending, judge

# How often the worker looks at its signals, and, while idle, at the queue.
_TICK_S = 0.1
_IDLE_S = 0.2
# How long before a run's end its successor gets ready: a trainer takes some seconds for that, and
# all the while it holds memory.
_HEAD_START_S = 60.0


class SlotWorker:
    """What serves one slot."""

    def __init__(self, how: How, store: Store, crew: Crew, slot: Slot) -> None:
        self._crew = crew
        self._slot = slot
        self._frozen = how.frozen
        self._standby = StandbySlot(how.home, how.trainer, slot)
        crew.standby(slot, self._standby)
        self._prepares = how.prepares
        self._home = how.home
        self._store = store
        self._queries = store.queries
        self._claims = store.claims
        self._stops = crew.stops
        self._listen = crew.listen
        self._trainer = how.trainer
        self._host = socket.gethostname()
        self._boot_id = processes.boot_id()
        self._serving: Serving | None = None
        self._lock_fault = ""
        self._patience = Patience(
            store,
            crew.stops,
            lambda text: self._report(EventKind.WAITING, crew.name(slot, text)),
        )

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
            closed, news = self._crew.closed(serving)
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
                self._train(*claimed)
            finally:
                self._crew.ends(self._slot)
        # What a search chose may have been trained before: then it chooses again.
        elif not suggested:
            self._standby.clear()
            self._idle()
        return True

    def _decide(self) -> tuple[bool, tuple[Run, Attempt] | None]:
        """Whether a search has chosen a setting, and the run that trains next in this slot."""
        if self._slot.name in self._queries.paused_slots():
            return False, None
        promote_from_rungs(self._store, self._listen)
        suggested = suggest_next(self._store, self._listen)
        claimed = self._claims.claim(
            *(self._host, self._boot_id, self._before),
            *(self._slot.name, self._crew.prepared_elsewhere(self._slot)),
        )
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

    def has_work(self) -> bool:
        """Whether a run can be claimed, now or after its back-off, or a search has more to try."""
        return self._patience.insist(self._has_work)

    def _goes_on(self) -> bool:
        """Whether something is left for this slot: what trains in another may bring it more."""
        with self._crew.deciding:
            return self._crew.busy or self._has_work()

    def _has_work(self) -> bool:
        if self._crew.all_paused(self._queries.paused_slots()):
            return False
        ready = self._queries.waiting(self._boot_id).ready_at is not None
        return ready or bool(self._queries.awaiting_suggestion() or self._queries.at_rung())

    def tidy(self) -> None:
        """Settle a running run that has ended, or that is asked to end."""
        left = self._running()
        if left is None:
            return
        run, attempt, sweep = left
        trainer = Adopted(attempt, self._home)
        if trainer.wait(0) or run.request is not None:
            self._follow(run, attempt, trainer, sweep)

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
            trainer = Adopted(attempt, self._home)
            if not trainer.wait(0):
                self._crew.hold_awake(self._slot)
                self._report(EventKind.ADOPTED, f"trains on (pid {trainer.pid})", run)
            self._follow(run, attempt, trainer, sweep)
        finally:
            self._crew.ends(self._slot)

    def _running(self) -> tuple[Run, Attempt, Sweep] | None:
        """The run that runs in this slot, with all that is needed to watch it."""
        for run in self._queries.running():
            if (run.slot or FIRST_SLOT) == self._slot.name:
                return run, self._queries.attempts(run.id)[-1], self._queries.sweep_of(run)
        return None

    def _train(self, run: Run, attempt: Attempt) -> None:
        try:
            # Before the launch: once a trainer lives, no wait for the queue may keep us from it.
            sweep = self._patience.insist(lambda: self._queries.sweep_of(run))
            if damaged := (*run.damaged, *sweep.damaged):
                words = f"its row in the queue is damaged: {', '.join(damaged)}"
                self._record(run, attempt, Outcome(Verdict.CONFIG, words), Progress(), 0.0)
                return
            if not self._is_as_submitted(run, attempt, sweep):
                return
            low_memory = processes.low_memory()
            trainer, attempt = self._patience.insist(lambda: self._launch(run, attempt, sweep))
        except LaunchError as e:
            words = f"cannot be started: {e}"
            self._record(run, attempt, Outcome(e.verdict, words), Progress(), 0.0)
            return
        except QueueBusy as e:
            words = f"the worker was stopped while it waited: {e}"
            self._record(run, attempt, Outcome(Verdict.INTERRUPTED, words), Progress(), 0.0)
            return
        crashpoint("worker.started")
        words = f"attempt {attempt.n}, pid {trainer.pid}"
        self._report(EventKind.STARTED, "; ".join(filter(None, (words, low_memory))), run)
        self._follow(run, attempt, trainer, sweep)

    def _launch(self, run: Run, attempt: Attempt, sweep: Sweep) -> tuple[Launched, Attempt]:
        """Let the standby go, else start one; the attempt knows its process."""
        standby = self._standby.take(run, attempt, sweep)
        if standby is not None:
            # Before it goes: so there is no instant in which an unknown process trains.
            attempt = self._record_standby(attempt, standby)
            crashpoint("worker.standby")
            trainer = standby.go(attempt)
            if trainer is not None:
                return trainer, attempt
            # Or a next worker would look for it instead of the one that takes its place.
            attempt = self._claims.started(attempt, None, None)
        freeze_config(run, sweep, self._home)
        earlier = self._queries.attempts(run.id)[:-1]
        trainer = launch(run, attempt, self._home, self._trainer, earlier, self._slot.env)
        started = processes.start_time(trainer.pid)
        # Recorded later where it cannot be now: until then it is found by its environment.
        with self._patience.skip(TRY_S):
            self._claims.started(attempt, trainer.pid, started)
        return trainer, replace(attempt, pid=trainer.pid, pid_started=started)

    def _record_standby(self, attempt: Attempt, standby: Standby) -> Attempt:
        started = processes.start_time(standby.pid)
        try:
            return self._claims.started(attempt, standby.pid, started)
        except QueueBusy:
            standby.dismiss()
            raise

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
        run = self._claims.coming(self._boot_id, self._crew.prepared_elsewhere(self._slot))
        if self._standby.holds(run):
            return
        self._standby.clear()
        if run is None or processes.is_memory_low():
            return
        sweep, earlier = self._queries.sweep_of(run), self._queries.attempts(run.id)
        pid = self._standby.put(run, sweep, earlier)
        if pid is not None:
            self._report(EventKind.PREPARED, f"standby (pid {pid})", run)

    def _is_as_submitted(self, run: Run, attempt: Attempt, sweep: Sweep) -> bool:
        """Say what has changed since the submit; False where that holds a frozen sweep."""
        self._say_environment(run, attempt, sweep)
        lines = changes(sweep.provenance, sweep.cwd)
        if not lines:
            return True
        held = sweep.frozen or self._frozen
        other = not (held or reads_the_same(run, sweep))
        self._patience.insist(lambda: self._claims.note_changes(attempt, lines, other=other))
        self._patience.insist(
            lambda: note(Path(attempt.log), [f"[frozen] {line}" for line in lines])
        )
        for line in lines:
            self._report(EventKind.CHANGED, line, run)
        if not held:
            return True
        words = f"frozen: {lines[0]}"
        accept = f"{words}; resume accepts what has changed"
        hold = partial(self._store.holds.hold_sweep, sweep.id, HoldCode.CHANGED, accept)
        self._patience.insist(hold)
        self._record(run, attempt, Outcome(Verdict.INTERRUPTED, words), Progress(), 0.0)
        return False

    def _say_environment(self, run: Run, attempt: Attempt, sweep: Sweep) -> None:
        """Say once a sweep in what the worker's environment differs from that of the submit."""
        if not self._crew.first_of_sweep(sweep.id):
            return
        lines = differences((sweep.provenance or {}).get("environment"), kept())
        if not lines:
            return
        self._patience.insist(
            lambda: note(Path(attempt.log), [f"[environment] {line}" for line in lines])
        )
        for line in lines:
            self._report(EventKind.CHANGED, line, run)

    def _follow(self, run: Run, attempt: Attempt, trainer: Trainer, sweep: Sweep) -> None:
        """Watch a trainer until it ends, then record how."""
        watch = RunMonitor(
            *(run, attempt, sweep, self._store, self._listen, self._patience),
            from_start=isinstance(trainer, Launched),
            gate=self._crew.gate,
            alone=not self._crew.several,
        )
        terminator = Terminator(
            trainer, self._stops, lambda text: self._report(EventKind.STOPPING, text, run)
        )
        while not trainer.wait(_TICK_S):
            if self._stops.abandoned:
                raise Abandoned
            if watch.look(terminator):
                self._keep_locks(trainer)
                self._prepare(watch.left_s)
            terminator.look()
        crashpoint("worker.ended")
        ending = self._ending(run, attempt, trainer, terminator.asked, watch)
        result = ending.result if _is_fresh(run, attempt) else None
        wall_s = watch.trained.settled(result)
        try:
            self._record(run, attempt, judge(ending), read_progress(run.folder), wall_s)
        finally:
            trainer.close()

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

    def _ending(
        self,
        run: Run,
        attempt: Attempt,
        trainer: Trainer,
        asked: StopRequest | None,
        watch: RunMonitor,
    ) -> Ending:
        # A finished folder is not trained again: exit code 0, and the result is an old one.
        known = _is_fresh(run, attempt) or trainer.exit_code == 0
        return Ending(
            exit_code=trainer.exit_code,
            signal=trainer.signal,
            result=read_result(run.folder) if known else None,
            log_tail=read_tail(Path(attempt.log)),
            asked=asked,
            same_boot=attempt.boot_id == self._boot_id,
            memory=watch.memory.evidence(),
            because=watch.because,
        )

    def _record(
        self, run: Run, attempt: Attempt, outcome: Outcome, progress: Progress, wall_s: float
    ) -> None:
        newest = RunPaths(run.folder).newest_checkpoint()
        objective = self._patience.insist(lambda: self._queries.sweep_of(run)).objective
        finish = partial(
            self._claims.finish,
            attempt,
            outcome,
            newer_checkpoint=newest > attempt.checkpoint,
            progress=progress,
            wall_s=wall_s,
            value=read_value(run.folder, objective),
        )
        ended = self._patience.insist(finish)
        self._patience.over()
        self._patience.insist(lambda: self._store.duplicates.read_values(owner_id=run.id))
        if ended is not None:
            self._report(
                EventKind.ENDED, f"{ended.state}: {ended.reason or outcome.reason}", ended, progress
            )

    def _idle(self) -> None:
        waiting = self._queries.waiting(self._boot_id)
        # Left is what waits for its back-off; what is held may stay so for days.
        if waiting.ready_at is not None:
            self._crew.hold_awake(self._slot)
        else:
            self._crew.let_sleep(self._slot)
        words = "; ".join(waiting.held) if waiting.queued else "nothing is queued"
        self._crew.idle(words)
        time.sleep(_IDLE_S)

    def _report(
        self, kind: EventKind, text: str, run: Run | None = None, progress: Progress | None = None
    ) -> None:
        self._listen(Event(kind, text, run, progress))


def _is_fresh(run: Run, attempt: Attempt) -> bool:
    """Whether the attempt wrote result.json; one that lay there before says nothing of it."""
    return result_identity(run.folder) != attempt.result_before
