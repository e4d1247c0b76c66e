"""One attempt: launched, or left by a dead worker and adopted; watched, judged, recorded.

What is looked at meanwhile is in `monitor.py`, what an ending means in `verdict.py`, what is
written in `claims.py`, how processes are handled in `launcher.py`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from orchestrator.errors import QueueBusy
from orchestrator.plan.environment import differences, kept
from orchestrator.plan.provenance import changes, reads_the_same
from orchestrator.queue.store import Store
from orchestrator.results.objective import read_value
from orchestrator.results.training_log import read_progress, read_result, result_identity
from orchestrator.run import (
    Attempt,
    HoldCode,
    Outcome,
    Progress,
    Run,
    StopRequest,
    Sweep,
    Verdict,
)
from orchestrator.system.crashpoints import crashpoint
from orchestrator.system.paths import RunPaths
from orchestrator.worker.attempt_log import note, read_tail
from orchestrator.worker.crew import Abandoned, Crew, How
from orchestrator.worker.events import Event, EventKind
from orchestrator.worker.launcher import LaunchError, Trainer
from orchestrator.worker.monitor import RunMonitor, Sight
from orchestrator.worker.patience import Patience
from orchestrator.worker.place import TrainingPlace
from orchestrator.worker.slots import Slot
from orchestrator.worker.termination import Terminator
from orchestrator.worker.verdict import Ending, judge

# How often the worker looks at its signals.
_TICK_S = 0.1


class AttemptRunner:
    """Carries out one attempt after another of a slot."""

    def __init__(
        self,
        how: How,
        store: Store,
        crew: Crew,
        slot: Slot,
        patience: Patience,
        place: TrainingPlace,
        meanwhile: Callable[[Trainer, float | None], None],
    ) -> None:
        """`meanwhile` is done each time that a trainer was looked at; it gets the seconds left."""
        self._frozen = how.frozen
        self._store = store
        self._queries = store.queries
        self._claims = store.claims
        self._crew = crew
        self._stops = crew.stops
        self._listen = crew.listen
        self._slot = slot
        self._patience = patience
        self._place = place
        self._meanwhile = meanwhile

    def train(self, run: Run, attempt: Attempt) -> None:
        """Train what was claimed: launched, watched and recorded, or recorded as what failed."""
        try:
            # Before the launch: once a trainer lives, no wait for the queue may keep us from it.
            sweep = self._patience.insist(lambda: self._queries.sweep_of(run))
            if damaged := (*run.damaged, *sweep.damaged):
                words = f"its row in the queue is damaged: {', '.join(damaged)}"
                self._record(run, attempt, Outcome(Verdict.CONFIG, words), Progress(), 0.0)
                return
            if not self._is_as_submitted(run, attempt, sweep):
                return
            low_memory = self._place.low_memory()
            launch = partial(self._place.launch, run, attempt, sweep)
            trainer, attempt = self._patience.insist(launch)
        except LaunchError as e:
            words = f"cannot be started: {e}"
            self._record(run, attempt, Outcome(e.verdict, words), Progress(), 0.0)
            return
        except QueueBusy as e:
            words = f"the worker was stopped while it waited: {e}"
            self._record(run, attempt, Outcome(Verdict.INTERRUPTED, words), Progress(), 0.0)
            return
        crashpoint("worker.started")
        words = f"attempt {attempt.n}, {self._place.where(trainer)}"
        self._report(EventKind.STARTED, "; ".join(filter(None, (words, low_memory))), run)
        self.follow(run, attempt, trainer, sweep)

    def follow(self, run: Run, attempt: Attempt, trainer: Trainer, sweep: Sweep) -> None:
        """Watch a trainer until it ends, then record how."""
        sight = self._place.sight(run, attempt, trainer)
        watch = RunMonitor(
            *(run, attempt, sweep, self._store, self._listen, self._patience),
            *(sight, self._crew.gate_of(self._slot)),
            alone=not self._crew.several,
        )
        terminator = Terminator(
            trainer, self._stops, lambda text: self._report(EventKind.STOPPING, text, run)
        )
        while not trainer.wait(_TICK_S):
            if self._stops.abandoned:
                raise Abandoned
            if watch.look(terminator):
                self._meanwhile(trainer, watch.left_s)
            terminator.look()
        crashpoint("worker.ended")
        self._place.ended(run, trainer)
        ending = self._ending(run, attempt, trainer, terminator.asked, watch, sight)
        result = ending.result if _is_fresh(run, attempt) else None
        wall_s = watch.trained.settled(result)
        try:
            self._record(run, attempt, judge(ending), read_progress(run.folder), wall_s)
        finally:
            trainer.close()

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

    def _ending(
        self,
        run: Run,
        attempt: Attempt,
        trainer: Trainer,
        asked: StopRequest | None,
        watch: RunMonitor,
        sight: Sight,
    ) -> Ending:
        # A finished folder is not trained again: exit code 0, and the result is an old one.
        known = _is_fresh(run, attempt) or trainer.exit_code == 0
        return Ending(
            exit_code=trainer.exit_code,
            signal=trainer.signal,
            result=read_result(run.folder) if known else None,
            log_tail=read_tail(Path(attempt.log)),
            asked=asked,
            same_boot=attempt.boot_id == self._place.boot_id,
            memory=sight.evidence(),
            because=watch.because,
            excuse=trainer.excuse,
            lost=trainer.lost,
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

    def _report(
        self, kind: EventKind, text: str, run: Run | None = None, progress: Progress | None = None
    ) -> None:
        self._listen(Event(kind, text, run, progress))


def _is_fresh(run: Run, attempt: Attempt) -> bool:
    """Whether the attempt wrote result.json; one that lay there before says nothing of it."""
    return result_identity(run.folder) != attempt.result_before
