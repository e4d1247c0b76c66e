"""SIGTERM and Ctrl-C as a flag that the work looks at, never as an exception in its midst.

The handler only notes the signal. While nothing is worth keeping (a download, loading a model) the
work may ask for `at_once`, where the signal ends it right there.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from grpo_core.errors import Interrupted

ShouldStop = Callable[[], bool]
"""Whether a signal came; long work asks it now and then."""


class StopNow(BaseException):
    """Raised by the handler within `at_once`; no `except Exception` of a library may catch it."""


class StopFlag:
    """Whether a signal asked this process to stop; call it, or `wait` with it."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at_once = False
        # The handler writes a byte here, so that `wait` wakes at once.
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def install(self) -> "StopFlag":
        """Take over SIGTERM and SIGINT; a second SIGINT ends the process the hard way."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note)
        return self

    def __call__(self) -> bool:
        """Whether a signal came."""
        return self.signal is not None

    def wait(self, seconds: float) -> bool:
        """Sleep at most so long, waking at a signal; whether one came."""
        deadline = time.monotonic() + seconds
        while self.signal is None and (left := deadline - time.monotonic()) > 0:
            select.select([self._reader], [], [], left)
        return self.signal is not None

    def check(self) -> None:
        """Raise Interrupted if a signal came."""
        if self.signal is not None:
            raise Interrupted(f"stopped by {self.signal.name}")

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Within, a signal ends the work where it stands: Interrupted comes out."""
        self.check()
        self._at_once = True
        try:
            yield
        except StopNow:
            pass
        finally:
            self._at_once = False
        self.check()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        first = self.signal is None
        self.signal = signal.Signals(number)
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"!")
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._at_once and first:
            self._at_once = False
            raise StopNow
