"""What is looked at while a trainer runs: requests, limits, stop rules, progress, memory.

Finds out and asks; the trainer is ended by `termination.py`, judged in `verdict.py`. What can be
seen of the machine on which it runs is a `Sight`.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Protocol

from grpo_core.run.locks import is_waiting
from orchestrator.queue.limits import Used, breach
from orchestrator.queue.store import Store
from orchestrator.results.training_log import ProgressReader
from orchestrator.run import Attempt, Progress, Run, StopRequest, Sweep
from orchestrator.system.files import folder_bytes
from orchestrator.text import duration
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.events import Event, EventKind, Listener
from orchestrator.worker.patience import Patience
from orchestrator.worker.silence import SilenceWatch
from orchestrator.worker.slowness import SlownessWatch
from orchestrator.worker.stop_monitor import StopMonitor
from orchestrator.worker.termination import Terminator
from orchestrator.worker.trained_time import TrainedTime
from orchestrator.worker.verdict import Because

# How often it looks at what users ask for ("within a second").
_LOOK_S = 0.5
# How often it notes the time trained, so that limits outlive a dead worker.
_NOTE_S = 5.0
# Measuring folders takes a moment where there are many.
_MEASURE_S = 10.0


class Sight(Protocol):
    """What is seen of a trainer, and of the machine on which it runs."""

    from_start: bool
    """Whether it was seen from its start, without a gap."""

    def waits(self) -> bool:
        """Whether nobody can say that it trains: it is still to begin, or cannot be reached."""

    def is_stopped(self) -> bool:
        """Whether it is suspended."""

    def signs(self) -> object:
        """What changes whenever it says something."""

    def look(self) -> None:
        """Note how much memory is left there."""

    def evidence(self) -> str | None:
        """What shows that the system there was out of memory; None when nothing does."""

    def others(self, ours: Collection[int]) -> str:
        """Which programs beside `ours` keep the machine busy."""

    def low_memory(self) -> str | None:
        """Who holds the memory there, where little is left."""


class RunMonitor:
    """What is looked at while a trainer runs: requests, limits, progress, memory."""

    def __init__(
        self,
        run: Run,
        attempt: Attempt,
        sweep: Sweep,
        store: Store,
        listen: Listener,
        patience: Patience,
        sight: Sight,
        closed: Callable[[], str | None],
        alone: bool = True,
    ) -> None:
        """`closed` is why nothing may train now, `alone`: no other run trains meanwhile."""
        self._run = run
        self._attempt = attempt
        self._sweep = sweep
        self._store = store
        self._listen = listen
        self._sight = sight
        self._closed = closed
        self._reader = ProgressReader(run.folder)
        self._seen = Progress()
        self._lock_words = ""
        self._patience = patience
        self._sweep_bytes = 0
        self.trained = TrainedTime(attempt.wall_s, from_start=sight.from_start)
        self._looked = self._noted = time.monotonic()
        self._measured = float("-inf")
        self._stop_monitor = StopMonitor(run, sweep, lambda: store.queries.runs(sweep.id), alone)
        self.because: Because | None = None
        self._silence = SilenceWatch(sweep.limits.stall_s, sight.signs)
        self._slowness = SlownessWatch(
            run.folder, self._trainers, others=sight.others, memory=sight.low_memory
        )

    @property
    def left_s(self) -> float | None:
        """Seconds that the run will still take, once that is known."""
        return self._seen.left_s

    def look(self, terminator: Terminator) -> bool:
        """Look at everything, if it is time to; whether it was."""
        now = time.monotonic()
        if now - self._looked < _LOOK_S:
            return False
        self._looked = now
        waits = self._waits() or self._sight.waits()
        self.trained.look(trains=not waits and not self._sight.is_stopped())
        self._end_stalled(terminator, waits)
        self._keep_hours(terminator)
        # Each by itself: one that finds the queue in others' hands must not keep the next back.
        for part in (self._obey, self._keep_limits, self._judge):
            with self._patience.skip():
                part(terminator)
        self._show()
        self._say_slow()
        self._sight.look()
        if now - self._noted >= _NOTE_S:
            self._noted = now
            with self._patience.skip():
                self._store.claims.tick(self._attempt, self.trained.seconds)
                self._patience.over()
        return True

    def _obey(self, terminator: Terminator) -> None:
        request = self._store.queries.request(self._run.id)
        if request is not None:
            terminator.ask(request)

    def _keep_limits(self, terminator: Terminator) -> None:
        if terminator.asked is not None:
            return
        wall_s = self.trained.seconds
        used = Used(self._run.wall_s + wall_s, self._sweep_s() + wall_s, self._bytes())
        found = breach(self._sweep.limits, used)
        if found is None:
            return
        if found.hold is None:
            terminator.ask(StopRequest.TIMEOUT)
            return
        # Another slot may have held it for that, and a user may have lifted the limit since.
        self._sweep = self._store.queries.sweep_of(self._run)
        if breach(self._sweep.limits, used) is None:
            return
        if not self._sweep.paused:
            self._store.holds.hold_sweep(self._sweep.id, found.hold, found.text)
        terminator.ask(StopRequest.STOP)

    def _sweep_s(self) -> float:
        """What the sweep's other attempts have trained; asked only where a limit wants it."""
        if self._sweep.limits.wall_s is None:
            return 0.0
        return self._store.queries.trained_s(self._sweep.id, but=self._attempt)

    def _judge(self, terminator: Terminator) -> None:
        """Keep the sweep's stop rule."""
        if terminator.asked is not None:
            return
        halt = self._stop_monitor.look()
        if halt is not None:
            self.because = Because(halt.reason, halt.evidence, halt.code)
            terminator.ask(halt.ask)

    def _bytes(self) -> int:
        """What lies in the sweep's folders; measured rarely, and only where a limit wants it."""
        if self._sweep.limits.disk_bytes is None:
            return 0
        if time.monotonic() - self._measured >= _MEASURE_S:
            self._sweep_bytes = sum(map(folder_bytes, self._store.queries.folders(self._sweep.id)))
            self._measured = time.monotonic()
        return self._sweep_bytes

    def _show(self) -> None:
        progress = self._reader.read()
        if progress != self._seen:
            self._seen = progress
            text = f"update {progress.update}"
            self._listen(Event(EventKind.PROGRESS, text, self._run, progress))

    def _keep_hours(self, terminator: Terminator) -> None:
        """Put the run back where the worker may train no longer."""
        if terminator.asked is None and (closed := self._closed()) is not None:
            self.because = Because(f"waits {closed}")
            self._listen(Event(EventKind.STOPPING, f"checkpoints and waits {closed}", self._run))
            terminator.ask(StopRequest.STOP)

    def _end_stalled(self, terminator: Terminator, waits: bool) -> None:
        silent_s = self._silence.look(self._reader.longest_s, waits=waits)
        if silent_s is None:
            return
        if terminator.asked is None:
            lines = read_tail(Path(self._attempt.log), 4096).splitlines()
            words = f"stalled: not a line for {duration(silent_s)}, as when a GPU hangs"
            self.because = Because(words, next(reversed(lines), None))
            self._listen(Event(EventKind.STOPPING, words, self._run))
        terminator.ask(StopRequest.STALL)

    def _say_slow(self) -> None:
        """Say that the run has become slow, and keep it for those who look later."""
        if (words := self._slowness.look()) is not None:
            self._listen(Event(EventKind.SLOWED, words, self._run))
            with self._patience.skip():
                self._store.claims.note_slowed(self._run, words)

    def _trainers(self) -> list[int]:
        """The pids of all that train, in whichever slot; of this run where the queue is busy."""
        pids = [] if self._attempt.pid is None else [self._attempt.pid]
        with self._patience.skip():
            pids = self._store.queries.trainer_pids()
        return pids

    def _waits(self) -> bool:
        """Whether the trainer waits for the GPU (said once)."""
        lines = read_tail(Path(self._attempt.log), 4096).splitlines()
        if lines and is_waiting(lines[-1]):
            words = lines[-1].removeprefix("[lock] ")
            if words != self._lock_words:
                self._lock_words = words
                self._listen(Event(EventKind.WAITING, words, self._run))
            return True
        return False
