"""Says once that a run has become slow, with who else keeps the machine busy just then.

What counts as slow is `results/slowdown.py`; here is when it is asked, and when it is news.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from orchestrator.results.slowdown import find_slowdown
from orchestrator.results.training_log import log_time, read_log
from orchestrator.system import load, processes

# The whole log is read: not so often that a long one would matter.
_LOOK_S = 60.0
# A run that was fast again for so many looks may be slow anew.
_QUIET_LOOKS = 3


class SlownessWatch:
    """Looks at a run's log once a minute."""

    def __init__(
        self,
        folder: Path,
        trainers: Callable[[], Collection[int]],
        clock: Callable[[], float] = time.monotonic,
        others: Callable[[Collection[int]], str] = load.busy_others,
        memory: Callable[[], str | None] = processes.low_memory,
    ) -> None:
        """`trainers` are the pids of those that train for this queue, in whichever slot."""
        self._folder = folder
        self._trainers = trainers
        self._clock = clock
        self._others = others
        self._memory = memory
        self._looked = clock()
        self._quiet = _QUIET_LOOKS

    def look(self) -> str | None:
        """What there is to say: how slow it is and who is busy; None where that is no news."""
        now = self._clock()
        if now - self._looked < _LOOK_S:
            return None
        self._looked = now
        found = find_slowdown(read_log(self._folder), log_time(self._folder))
        was_quiet, self._quiet = self._quiet >= _QUIET_LOOKS, 0 if found else self._quiet + 1
        if found is None or not was_quiet:
            return None
        return "; ".join(filter(None, (str(found), self._others(self._trainers()), self._memory())))
