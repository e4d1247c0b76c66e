"""Whether a trainer has said nothing for so long that its GPU must hang.

Metal's waits have no end: where a command never comes back, the trainer neither fails nor goes on,
and the night passes. What counts is that one of its files changes: its output or its training log.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

# So many times the longest update or evaluation so far may pass in silence.
_TIMES_LONGEST = 10.0
# Before the first of them nobody knows how long one takes: a model is loaded, kernels are built.
_TIMES_FIRST = 4.0
# Looks come twice a second: after so long without one, the worker itself stood still.
_GAP_S = 10.0


class SilenceWatch:
    """Adds up the time between looks at which it had said nothing."""

    def __init__(
        self,
        stall_s: float,
        signs: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stall_s` is the least silence that may end a trainer; `signs` change when it speaks."""
        self._stall_s = stall_s
        self._signs = signs
        self._clock = clock
        self._looked = clock()
        self._seen = signs()
        self._silent_s = 0.0

    def look(self, longest_s: float | None, *, waits: bool) -> float | None:
        """The seconds of silence, once they are too many; else None.

        `longest_s` is the longest update or evaluation so far, None before the first; a trainer
        that `waits` for a device has nothing to say.
        """
        now = self._clock()
        passed, self._looked = now - self._looked, now
        seen, self._seen = self._seen, self._signs()
        if waits or seen != self._seen:
            self._silent_s = 0.0
        elif passed <= _GAP_S:
            self._silent_s += passed
        return self._silent_s if self._silent_s > self._most_s(longest_s) else None

    def _most_s(self, longest_s: float | None) -> float:
        if longest_s is None:
            return _TIMES_FIRST * self._stall_s
        return max(self._stall_s, _TIMES_LONGEST * longest_s)


def file_signs(*files: Path) -> Callable[[], object]:
    """What changes when one of these files does."""
    return lambda: [_sign(path) for path in files]


def _sign(path: Path) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)
