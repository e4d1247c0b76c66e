"""SIGTERM and Ctrl-C as a flag that the work looks at, never as an exception in its midst.

The handler only notes the signal; a thread of ours may `ask` as well. While nothing is worth
keeping (a download, loading a model) the work may ask for `at_once`, where the signal ends it right
there.
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
"""Whether a stop was asked for; long work asks it now and then."""


class StopNow(BaseException):
    """Raised by the handler within `at_once`; no `except Exception` of a library may catch it."""


class StopFlag:
    """Whether something asked this process to stop; call it, or `wait` with it."""

    def __init__(self) -> None:
        self._why: str | None = None
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
        """Whether it was asked."""
        return self._why is not None

    def ask(self, why: str) -> None:
        """Ask it to stop, from any thread; whoever asked first is named."""
        self._why = self._why or why
        with contextlib.suppress(BlockingIOError):
            os.write(self._writer, b"!")

    def wait(self, seconds: float) -> bool:
        """Sleep at most so long, waking when asked to stop; whether that came."""
        deadline = time.monotonic() + seconds
        while self._why is None and (left := deadline - time.monotonic()) > 0:
            select.select([self._reader], [], [], left)
        return self._why is not None

    def check(self) -> None:
        """Raise Interrupted if it was asked."""
        if self._why is not None:
            raise Interrupted(self._why)

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
        self.ask(f"stopped by {signal.Signals(number).name}")
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._at_once:
            self._at_once = False
            raise StopNow
