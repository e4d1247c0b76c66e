"""How long an attempt has trained, as seen from outside while it does.

Waiting for a device is not training, nor is a suspended trainer, a suspended worker, or sleep. What
counts in the end is the trainer's own measure, in result.json.
"""

import time
from collections.abc import Mapping
from typing import Any

# Looks come twice a second: after so long without one, the worker itself stood still.
_GAP_S = 10.0


class TrainedTime:
    """Adds up the time between looks at a trainer that trains."""

    def __init__(self, before_s: float, *, from_start: bool) -> None:
        """`before_s` is what another worker has counted; `from_start`: there was none."""
        self.seconds = before_s
        self._whole = from_start
        self._looked = time.monotonic()

    def look(self, *, trains: bool) -> None:
        """Count the time since the last look, if the trainer has trained."""
        now = time.monotonic()
        passed, self._looked = now - self._looked, now
        if passed > _GAP_S:
            self._whole = False
        elif trains:
            self.seconds += passed

    def settled(self, result: Mapping[str, Any] | None) -> float:
        """The time trained by the attempt that has written this result, None: that wrote none.

        The trainer knows best when it waited; but that it was suspended, only we have seen.
        """
        self.look(trains=True)
        own = (result or {}).get("attempt_s")
        if not isinstance(own, int | float):
            return self.seconds
        return min(float(own), self.seconds) if self._whole else float(own)
