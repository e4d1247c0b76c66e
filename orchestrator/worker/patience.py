"""A queue that others hold, or whose disk is full: the worker waits, and never gives up.

What must be written is written later; what need not be is left out. Both are said once.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from orchestrator.errors import QueueBusy
from orchestrator.queue.store import Store
from orchestrator.worker.termination import Stops

T = TypeVar("T")

# So long one try waits: SQLite hears no signal meanwhile.
TRY_S = 2.0
# A look that comes again waits no longer for others than this.
_BRIEF_S = 0.1
_PAUSE_S = 0.5


class Patience:
    """Uses the queue as soon as it can be had; only the user's signals end the wait."""

    def __init__(self, store: Store, stops: Stops, tell: Callable[[str], None]) -> None:
        self._store = store
        self._stops = stops
        self._tell = tell
        self._waits = False

    def insist(self, do: Callable[[], T]) -> T:
        """What `do` returns, once it can be done; QueueBusy if the user stops the worker first."""
        while True:
            try:
                return do()
            except QueueBusy as e:
                if self._stops.over:
                    raise
                self.wait(e)

    @contextmanager
    def skip(self, wait_s: float = _BRIEF_S) -> Iterator[None]:
        """Leave out what is within where the queue cannot be had at once."""
        try:
            with self._store.patience(wait_s):
                yield
        except QueueBusy as e:
            self._say(e)

    def wait(self, error: QueueBusy) -> None:
        """Say what is waited for, and let a moment pass."""
        self._say(error)
        time.sleep(_PAUSE_S)

    def over(self) -> None:
        """Something was written: the wait, if there was one, is over."""
        if self._waits:
            self._waits = False
            self._tell("the queue can be used again")

    def _say(self, error: QueueBusy) -> None:
        if not self._waits:
            self._waits = True
            self._tell(f"{error}; the worker tries again until it can, and trains meanwhile")
