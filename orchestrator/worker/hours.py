"""When the worker may train: between two times of day, on mains power, while nobody is there.

Outside of that the running run is checkpointed and put back, and the worker waits. Times are those
of the local clock, so that a window keeps its hours when summer time begins or ends.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from datetime import time as TimeOfDay

from orchestrator.errors import UsageError
from orchestrator.system import power
from orchestrator.text import duration

_WINDOW = re.compile(r"(\d{1,2}):(\d{2})-(\d{1,2}):(\d{2})")
# To ask for the battery, or for who is there, may start a program.
_LOOK_S = 5.0


@dataclass(frozen=True)
class Window:
    """From one time of day to another, across midnight where the second is the earlier one."""

    start: TimeOfDay
    end: TimeOfDay

    @classmethod
    def parse(cls, text: str) -> "Window":
        """`22:00-08:00`; UsageError."""
        found = _WINDOW.fullmatch(text.strip())
        try:
            if found is None:
                raise ValueError
            first, minute, last, last_minute = map(int, found.groups())
            start, end = TimeOfDay(first, minute), TimeOfDay(last, last_minute)
        except ValueError:
            raise UsageError(
                f"--between {text}: must be two times of day, such as 22:00-08:00"
            ) from None
        if start == end:
            raise UsageError(f"--between {text}: both times are the same")
        return cls(start, end)

    def holds(self, at: TimeOfDay) -> bool:
        """Whether this time of day lies within; the end does not."""
        if self.start < self.end:
            return self.start <= at < self.end
        return at >= self.start or at < self.end

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True)
class Hours:
    """What a worker was told about when it may train; nothing: always."""

    between: Window | None = None
    on_power: bool = False
    idle_min: float | None = None

    def words(self) -> list[str]:
        """The options of `work` that say the same."""
        words = [] if self.between is None else ["--between", str(self.between)]
        words += ["--on-power"] if self.on_power else []
        return words + ([] if self.idle_min is None else ["--when-idle", f"{self.idle_min:g}"])


@dataclass(frozen=True)
class Senses:
    """How the worker learns what time it is, what feeds the machine, and who is there."""

    now: Callable[[], datetime] = datetime.now
    on_battery: Callable[[], bool] = power.on_battery
    idle_s: Callable[[], float] = power.idle_s
    clock: Callable[[], float] = time.monotonic


class Gate:
    """Whether the worker may train now; costs nothing, so it may be asked often."""

    def __init__(self, hours: Hours | None = None, senses: Senses | None = None) -> None:
        self._hours = hours or Hours()
        self._senses = senses or Senses()
        self._asked = float("-inf")
        self._why: str | None = None

    def closed(self) -> str | None:
        """Why nothing may be trained now, and until when; None while it may."""
        hours, senses = self._hours, self._senses
        if (window := self.closed_elsewhere()) is not None:
            return window
        if not hours.on_power and hours.idle_min is None:
            return None
        if senses.clock() - self._asked >= _LOOK_S:
            # Noted last: another slot that asks meanwhile must not find what was true before.
            self._why = self._look()
            self._asked = senses.clock()
        return self._why

    def closed_elsewhere(self) -> str | None:
        """As `closed`, for other machines: battery and user of this one do not matter there."""
        window = self._hours.between
        if window is None or window.holds(self._senses.now().time()):
            return None
        return f"until {window.start:%H:%M} (--between {window})"

    def _look(self) -> str | None:
        if self._hours.on_power and self._senses.on_battery():
            return "until it is plugged in: it runs on its battery (--on-power)"
        if self._hours.idle_min is None:
            return None
        most = self._hours.idle_min * 60
        try:
            idle_s = self._senses.idle_s()
        except (OSError, ValueError) as e:
            return f"nobody knows how long the machine has been idle: {e} (--when-idle)"
        if idle_s >= most:
            return None
        return f"until nobody has used the machine for {duration(most)} (--when-idle)"
