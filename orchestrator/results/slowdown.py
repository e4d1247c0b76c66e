"""Whether a run has become slower than it was: its tokens a second against its own median; pure.

Another program that fills the GPU, a hot machine or one that swaps shows in nothing else: the run
goes on, at a part of its speed (a co-resident MLX process fell to 0.38 times, d-inference #1116).
"""

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from orchestrator.results.training_log import Line, finite_number, logged_seconds
from orchestrator.text import time_of_day

# What is usual rests on so many updates at the least, that it is over on so many and so long.
BEFORE, LASTS, LASTS_S = 5, 3, 60.0
# Slower by less is a run whose completions have become longer or shorter.
TIMES = 2.0


@dataclass(frozen=True)
class Slowdown:
    """How much slower a run is than it was, and for how long it has been."""

    times: float
    usual: float
    """Tokens a second before that, the median."""
    lasts_s: float
    """Seconds since the first slow update, up to the last line of the log."""

    until: float = 0.0
    """When that line was written, in seconds since the epoch."""

    @property
    def since(self) -> datetime:
        """When it began."""
        return datetime.fromtimestamp(self.until - self.lasts_s, UTC)

    def __str__(self) -> str:
        until = datetime.fromtimestamp(self.until, UTC).astimezone()
        since = time_of_day(self.since.astimezone(), until)
        now = self.usual / self.times
        return (
            f"{self.times:.1f} times slower than usual since {since} "
            f"({now:,.0f} tokens/s, usually {self.usual:,.0f})"
        )


def find_slowdown(lines: Sequence[Line], until: float = 0.0) -> Slowdown | None:
    """What the log says: a run of last updates that are all slower than half of what was usual.

    `until` is when the log was last written. None where there is none, or where too few updates are
    logged to say so.
    """
    rates = [
        (rate, at)
        for at, line in enumerate(lines)
        if "split" not in line and (rate := finite_number(line.get("tokens_per_s"))) and rate > 0
    ]
    first = _first_slow([rate for rate, _ in rates])
    if first is None:
        return None
    # Not at the top: hardly any run is slow, and a look at the queue must be quick.
    from statistics import median

    usual = median(rate for rate, _ in rates[:first])
    slow = median(rate for rate, _ in rates[first:])
    lasts_s = sum(logged_seconds(line) for line in lines[rates[first][1] :])
    return Slowdown(usual / slow, usual, lasts_s, until) if lasts_s >= LASTS_S else None


def _first_slow(rates: Sequence[float]) -> int | None:
    """Where the last updates begin that are all slow; the earliest place that holds."""
    fastest_from = list(itertools.accumulate(reversed(rates), max))[::-1]
    before = sorted(rates[:BEFORE])
    for at in range(BEFORE, len(rates) - LASTS + 1):
        # Slower than three quarters of them as well: a rate that jumps up and down is usual then.
        slow = fastest_from[at]
        if TIMES * slow <= _middle(before) and slow < before[len(before) // 4]:
            return at
        bisect.insort(before, rates[at])
    return None


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
