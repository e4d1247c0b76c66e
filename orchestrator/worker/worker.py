"""The worker's loop: reconcile -> claim -> launch -> watch -> record, run by run.

One worker a queue, by flock. A trainer that a dead worker left behind is adopted: watched until
its lock is free, then judged by what it wrote. Nothing here rests on clocks or heartbeats, so a
machine may sleep at any point. What is looked at meanwhile is in `monitor.py`, what an ending means
in `verdict.py`, what is written in `claims.py`, how processes are handled in `launcher.py`.
"""

import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from grpo_core.errors import ExitCode
from orchestrator.errors import SpecError, WorkerBusy
from orchestrator.plan.provenance import changes, reads_the_same
from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
from orchestrator.results.objective import read_value
from orchestrator.results.training_log import (
    read_progress,
    read_result,
    result_identity,
)
from orchestrator.run import (
    Attempt,
    HoldCode,
    Outcome,
    Progress,
    Run,
    RunState,
    StopRequest,
    Sweep,
    Verdict,
)
from orchestrator.stopping.halving import halving_steps
from orchestrator.system import paths, processes
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.files import freeze
from orchestrator.system.paths import Home, RunPaths
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.events import Event, EventKind, Listener
from orchestrator.worker.launcher import (
    TRAINER,
    Adopted,
    Launched,
    LaunchError,
    Trainer,
    launch,
)
from orchestrator.worker.monitor import RunMonitor
from orchestrator.worker.serving import serve_alone
from orchestrator.worker.standby import StandbySlot, affordable
from orchestrator.worker.termination import Stops, Terminator, stop_signals
from orchestrator.worker.verdict import Ending, judge

# How often the worker looks at its signals, and, while idle, at the queue.
_TICK_S = 0.1
_IDLE_S = 0.2
# How long before a run's end its successor gets ready: a trainer takes some seconds for that, and
# all the while it holds memory.
_HEAD_START_S = 60.0


def work(
    home: Home | None = None,
    *,
    until_empty: bool = False,
    on_event: Listener | None = None,
    trainer: Sequence[str] = TRAINER,
    frozen: bool = False,
    prewarm: bool | None = None,
) -> int:
    """Serve the queue until stopped, or until nothing is left that could run.

    With `frozen` a sweep is held where something has changed since its submit. With `prewarm` the
    next trainer is prepared while one trains; None: where the machine has memory for it.

    Returns 0, or 75 when a signal stopped it. Raises WorkerBusy when another worker serves this
    queue, and QueueError when the queue cannot be used.
    """
    home = (home or paths.home()).make()
    listen = on_event or (lambda event: None)
    with Store.open(home.db) as store, stop_signals() as stops:
        prepares = affordable() if prewarm is None else prewarm
        worker = _Worker(home, store, stops, listen, trainer, frozen, prepares)
        while True:
            with serve_alone(home):
                worker.serve(until_empty)
            # A sweep that came while we let go of the lock was told that a worker is there.
            if stops.count or not worker.has_work():
                break
        listen(Event(EventKind.STOPPED if stops.count else EventKind.EMPTY, "the worker ends"))
    return ExitCode.INTERRUPTED if stops.count else 0


def tidy(home: Home | None = None) -> None:
    """In the absence of a worker: end a run that is asked to end, record one that has ended.

    Does nothing while a worker serves the queue, and starts no run.
    """
    home = (home or paths.home()).make()
    try:
        with serve_alone(home), Store.open(home.db) as store, stop_signals() as stops:
            _Worker(home, store, stops, lambda event: None, TRAINER).tidy()
    except WorkerBusy:
        return


class _Worker:
    def __init__(
        self,
        home: Home,
        store: Store,
        stops: Stops,
        listen: Listener,
        trainer: Sequence[str],
        frozen: bool = False,
        prepares: bool = False,
    ) -> None:
        self._frozen = frozen
        self._slot = StandbySlot(home, trainer)
        self._prepares = prepares
        self._home = home
        self._store = store
        self._queries = store.queries
        self._claims = store.claims
        self._stops = stops
        self._listen = listen
        self._trainer = trainer
        self._host = socket.gethostname()
        self._boot_id = processes.boot_id()
        self._idle_words = ""

    def serve(self, until_empty: bool) -> None:
        """Train what is queued, one run after another."""
        try:
            self._reconcile()
            self._serve(until_empty)
        finally:
            self._slot.clear()

    def _serve(self, until_empty: bool) -> None:
        while not self._stops.count:
            self._promote_from_rung()
            asked = self._ask()
            claimed = self._claims.claim(self._host, self._boot_id, self._before)
            if claimed is not None:
                self._idle_words = ""
                self._train(*claimed)
            elif until_empty and not self.has_work():
                return
            # What it chose may have been trained before: then it chooses again.
            elif not asked:
                self._slot.clear()
                self._idle()

    def has_work(self) -> bool:
        """Whether a run can be claimed, now or after its back-off, or a search has more to try."""
        ready = self._queries.waiting(self._boot_id).ready_at is not None
        return ready or bool(self._queries.awaiting_suggestion() or self._queries.at_rung())

    def _ask(self) -> bool:
        """Let each search whose runs are all done choose its next setting; whether one did."""
        asked = False
        for sweep in self._queries.awaiting_suggestion():
            # The grammar takes time to import, and a status asks this module whether it runs.
            from orchestrator.plan.next_runs import next_runs, prepare

            prepare()
            try:
                chosen = self._store.submissions.suggest(sweep.id, next_runs)
            except SpecError as e:
                self._store.holds.hold_sweep(sweep.id, HoldCode.SEARCH, f"search: {e}")
                continue
            asked |= bool(chosen)
            words = chosen[0].name if chosen else "nothing is left to try"
            self._tell(
                EventKind.SUGGESTED, f"sweep {sweep.name}: {sweep.search.method} tries {words}"
            )
        return asked

    def _promote_from_rung(self) -> None:
        """Where all runs of a sweep wait at a rung, let the best go on and prune the others."""
        for sweep in self._queries.at_rung():
            runs = self._queries.runs(sweep.id)
            steps = halving_steps(sweep, runs)
            for run in runs:
                if run.rung is not None and run.id in steps:
                    changed = self._claims.leave_rung(run.id, steps[run.id].decision)
                    if changed is not None and changed.state is RunState.PRUNED:
                        self._tell(EventKind.ENDED, f"pruned: {changed.reason}", changed)

    def tidy(self) -> None:
        """Settle a running run that has ended, or that is asked to end."""
        run = self._queries.running()
        if run is None:
            return
        attempt = self._queries.attempts(run.id)[-1]
        trainer = Adopted(attempt, self._home)
        if trainer.wait(0) or run.request is not None:
            self._follow(run, attempt, trainer)

    def _before(self, run: Run) -> Before:
        checkpoint = RunPaths(run.folder).newest_checkpoint()
        log = str(self._home.attempt_log(run.id, run.attempt))
        return Before(checkpoint, result_identity(run.folder), log)

    def _reconcile(self) -> None:
        """Take over what a dead worker left: a live trainer, or what nobody read of one."""
        self._store.duplicates.read_values()
        run = self._queries.running()
        if run is None:
            return
        attempt = self._queries.attempts(run.id)[-1]
        trainer = Adopted(attempt, self._home)
        if not trainer.wait(0):
            self._tell(EventKind.ADOPTED, f"trains on (pid {trainer.pid})", run)
        self._follow(run, attempt, trainer)

    def _train(self, run: Run, attempt: Attempt) -> None:
        sweep = self._queries.sweep_of(run)
        if not self._is_as_submitted(run, attempt, sweep):
            return
        low_memory = processes.low_memory()
        try:
            trainer, attempt = self._launch(run, attempt, sweep)
        except LaunchError as e:
            words = f"cannot be started: {e}"
            self._record(run, attempt, Outcome(e.verdict, words), Progress(), 0.0)
            return
        crashpoint("worker.started")
        words = f"attempt {attempt.n}, pid {trainer.pid}"
        self._tell(EventKind.STARTED, "; ".join(filter(None, (words, low_memory))), run)
        self._follow(run, attempt, trainer, sweep)

    def _launch(self, run: Run, attempt: Attempt, sweep: Sweep) -> tuple[Launched, Attempt]:
        """Let the standby go, else start one; the attempt knows its process."""
        standby = self._slot.take(run, attempt, sweep)
        if standby is not None:
            # Before it goes: so there is no instant in which an unknown process trains.
            attempt = self._started(attempt, standby.pid)
            crashpoint("worker.standby")
            trainer = standby.go(attempt)
            if trainer is not None:
                return trainer, attempt
            # Or a next worker would look for it instead of the one that takes its place.
            attempt = self._claims.started(attempt, None, None)
        freeze(self._home.frozen_config(run.sweep_id), sweep.config_text)
        trainer = launch(run, attempt, self._home, self._trainer)
        return trainer, self._started(attempt, trainer.pid)

    def _started(self, attempt: Attempt, pid: int) -> Attempt:
        return self._claims.started(attempt, pid, processes.start_time(pid))

    def _prepare(self, left_s: float | None) -> None:
        """Prepare the trainer of the run that comes next, once it is nearly its turn."""
        if not self._prepares or left_s is None or left_s > _HEAD_START_S or self._stops.count:
            return
        run = self._claims.coming(self._boot_id)
        if self._slot.holds(run):
            return
        self._slot.clear()
        if run is None or processes.is_memory_low():
            return
        pid = self._slot.put(run, self._queries.sweep_of(run))
        if pid is not None:
            self._tell(EventKind.PREPARED, f"standby (pid {pid})", run)

    def _is_as_submitted(self, run: Run, attempt: Attempt, sweep: Sweep) -> bool:
        """Say what has changed since the submit; False where that holds a frozen sweep."""
        lines = changes(sweep.provenance, sweep.cwd)
        if not lines:
            return True
        held = sweep.frozen or self._frozen
        self._claims.note_changes(attempt, lines, other=not (held or reads_the_same(run, sweep)))
        with open(attempt.log, "a", encoding="utf-8") as log:
            log.writelines(f"[frozen] {line}\n" for line in lines)
        for line in lines:
            self._tell(EventKind.CHANGED, line, run)
        if not held:
            return True
        words = f"frozen: {lines[0]}"
        accept = f"{words}; resume accepts what has changed"
        self._store.holds.hold_sweep(sweep.id, HoldCode.CHANGED, accept)
        self._record(run, attempt, Outcome(Verdict.INTERRUPTED, words), Progress(), 0.0)
        return False

    def _follow(
        self, run: Run, attempt: Attempt, trainer: Trainer, sweep: Sweep | None = None
    ) -> None:
        """Watch a trainer until it ends, then record how."""
        sweep = sweep or self._queries.sweep_of(run)
        watch = RunMonitor(run, attempt, sweep, self._store, self._listen)
        terminator = Terminator(
            trainer, self._stops, lambda text: self._tell(EventKind.STOPPING, text, run)
        )
        while not trainer.wait(_TICK_S):
            if watch.look(terminator):
                self._prepare(watch.left_s)
            terminator.look()
        crashpoint("worker.ended")
        outcome = judge(self._ending(run, attempt, trainer, terminator.asked, watch))
        self._record(run, attempt, outcome, read_progress(run.folder), watch.wall_s())
        trainer.close()

    def _ending(
        self,
        run: Run,
        attempt: Attempt,
        trainer: Trainer,
        asked: StopRequest | None,
        watch: RunMonitor,
    ) -> Ending:
        # A finished folder is not trained again: exit code 0, and the result is an old one.
        fresh = result_identity(run.folder) != attempt.result_before
        known = fresh or trainer.exit_code == 0
        return Ending(
            exit_code=trainer.exit_code,
            signal=trainer.signal,
            result=read_result(run.folder) if known else None,
            log_tail=read_tail(Path(attempt.log)),
            asked=asked,
            same_boot=attempt.boot_id == self._boot_id,
            memory=watch.memory.evidence() if trainer.signal == signal.SIGKILL else None,
            because=watch.because,
        )

    def _record(
        self, run: Run, attempt: Attempt, outcome: Outcome, progress: Progress, wall_s: float
    ) -> None:
        newest = RunPaths(run.folder).newest_checkpoint()
        ended = self._claims.finish(
            attempt,
            outcome,
            newer_checkpoint=newest > attempt.checkpoint,
            progress=progress,
            wall_s=wall_s,
            value=read_value(run.folder, self._queries.sweep_of(run).objective),
        )
        if ended is not None:
            self._tell(
                EventKind.ENDED, f"{ended.state}: {ended.reason or outcome.reason}", ended, progress
            )

    def _idle(self) -> None:
        waiting = self._queries.waiting(self._boot_id)
        words = "; ".join(waiting.held) if waiting.queued else "nothing is queued"
        if words and words != self._idle_words:
            self._idle_words = words
            self._tell(EventKind.WAITING, words)
        time.sleep(_IDLE_S)

    def _tell(
        self, kind: EventKind, text: str, run: Run | None = None, progress: Progress | None = None
    ) -> None:
        self._listen(Event(kind, text, run, progress))
