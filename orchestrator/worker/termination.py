"""How a trainer is brought to its end: by the user's signals to the worker, or by a request.

An interrupt first (it checkpoints and ends), then SIGTERM to its group, then a kill: each further
signal goes one step on, and so does the end of a request's grace.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from orchestrator.run import StopRequest
from orchestrator.worker.launcher import Trainer

# How long a trainer may take to end before it is killed; no entry: until the user insists.
_GRACE_S = {
    StopRequest.CANCEL: 30.0,
    StopRequest.TIMEOUT: 120.0,
    StopRequest.PRUNE: 30.0,
    StopRequest.FAIL: 30.0,
    StopRequest.STALL: 10.0,
}
_TERMINATE_GRACE_S = 5.0


class Stops:
    """How often the user asked the worker to stop; the handler only counts.

    `abandoned`: the worker ends by an error, and leaves its trainers to the next one.
    """

    def __init__(self) -> None:
        self.count = 0
        self.abandoned = False

    @property
    def over(self) -> bool:
        """Whether no wait is worth while any more."""
        return self.abandoned or self.count > 0

    def note(self, _number: int, _frame: FrameType | None) -> None:
        """Handle SIGINT, SIGTERM or SIGHUP."""
        self.count += 1


@contextmanager
def stop_signals() -> Iterator[Stops]:
    """Count stop signals instead of dying of them, as long as the context is open."""
    stops = Stops()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    # nohup(1) has it ignored on purpose.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, stops.note) for number in numbers}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Terminator:
    """Ends a trainer: an interrupt first, then a signal to its group, then a kill."""

    def __init__(self, trainer: Trainer, stops: Stops, report: Callable[[str], None]) -> None:
        self._trainer = trainer
        self._stops = stops
        self._report = report
        self._step = 0
        self._deadline = float("inf")
        self.asked: StopRequest | None = None

    def ask(self, what: StopRequest) -> None:
        """Let it checkpoint and end; after the grace of `what` it is killed.

        What was asked first stands, but that cancel outranks the rest. A trainer that has stalled
        heeds nothing: whatever was asked, it is killed after the grace.
        """
        deadline = time.monotonic() + _GRACE_S.get(what, float("inf"))
        if what is StopRequest.STALL:
            self._deadline = min(self._deadline, deadline)
        if self.asked is what or (self.asked is not None and what is not StopRequest.CANCEL):
            return
        self.asked = what
        self._deadline = deadline
        self._trainer.interrupt()

    def look(self) -> None:
        """Do what the user's signals and the grace ask for."""
        if self._stops.count and self._step < 1:
            self._step = 1
            self._report("the trainer saves a checkpoint and ends; once more to end it without")
            self.ask(StopRequest.STOP)
        if self._stops.count >= 2 and self._step < 2:
            self._step = 2
            self._report("the trainer and its children are asked to end; once more kills them")
            self._trainer.terminate()
            self._deadline = min(self._deadline, time.monotonic() + _TERMINATE_GRACE_S)
        if (self._stops.count >= 3 or time.monotonic() >= self._deadline) and self._step < 3:
            self._step = 3
            self._report("the trainer and its children are killed")
            self._trainer.kill()
