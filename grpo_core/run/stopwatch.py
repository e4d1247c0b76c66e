"""The time that a run has trained, over all its attempts, without the time that it waited."""

import time

from grpo_core.run.checkpoint import RunState


class Stopwatch:
    """Adds the time that passes to the run's wall time, over all its attempts."""

    def __init__(self, state: RunState) -> None:
        self._state = state
        self.attempt_s = 0.0
        """Of this attempt alone, as far as it was counted."""
        self._last = time.monotonic()

    def lap(self) -> None:
        """Count the time since the last lap."""
        last = self._last
        self.skip()
        self._state.wall_s += self._last - last
        self.attempt_s += self._last - last

    def skip(self) -> None:
        """Leave the time since the last lap out: it was spent waiting for another run."""
        self._last = time.monotonic()
