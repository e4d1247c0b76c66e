"""The ETA: how long the rest takes, as a range, from runs of the same kind; pure.

Each run that is left is expected to take what like runs took: those of its sweep, or of another
sweep over the same base config, or the running run's pace. With e_i the seconds that are expected
of run i, r the relative spread of equal runs and N the number of measured ones, the sum is off by
r * sqrt(sum e_i^2) for the runs themselves and by r * sum e_i / sqrt(N) for the mean: the range is
two standard deviations of both. Several slots share the runs, each run in the slot that is free
first: there the first term is r * sqrt(sum e_i^2 / slots), and the second that of the time until
all are done; a slot of a faster machine takes more of them. Nothing like it measured: unknown
(None), never a guess.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.run import END_STATES, Progress, Run, RunState, Share

# Until equal runs have shown how much they differ: a quarter, with the weight of one run.
_SPREAD = 0.25
_DEVIATIONS = 2.0
# After so many rounds of equal runs each slot is as far ahead of the others as after the next.
_ROUNDS = 8

# A share that is whole may come out a little less.
_ROUNDING = 1e-9

_BOUNDS = ("low_s", "likely_s", "high_s")


@dataclass(frozen=True)
class Span:
    """Seconds until something is done: between `low_s` and `high_s`, most likely `likely_s`."""

    low_s: float
    likely_s: float
    high_s: float

    def __add__(self, other: "Span") -> "Span":
        """One after the other."""
        return Span(
            self.low_s + other.low_s, self.likely_s + other.likely_s, self.high_s + other.high_s
        )


NOTHING = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Work:
    """What is known of the runs of a sweep: all of them counted in `shares`.

    `begun` are the unfinished runs that were started before, `sample` (kind, seconds) of ended
    ones, `similar_runs` completed runs of other sweeps, `waiting_duplicates` queued runs by kind
    that will only take over another run's result, and `to_come` runs that a search has yet to
    choose.
    """

    shares: Sequence[Share]
    begun: Sequence[Run]
    sample: Sequence[tuple[str, float]] = ()
    similar_runs: Sequence[Share] = ()
    waiting_duplicates: Mapping[str, int] = field(default_factory=dict)
    to_come: int = 0


@dataclass(frozen=True)
class Parts:
    """What is left of a sweep: so many runs at such a cost, in the order in which they come.

    Equal runs differ by `spread`, relative to the mean of `measured` ones.
    """

    parts: Sequence[tuple[int, Span]]
    spread: float
    measured: int

    @property
    def span(self) -> Span:
        """The seconds of all of them, one after the other."""
        low, likely, high = (
            math.fsum(n * getattr(cost, name) for n, cost in self.parts) for name in _BOUNDS
        )
        return Span(low, likely, high)

    def off(self, likely_s: float, slots: int) -> float:
        """How far the time until all are done may be off, where they are shared by slots."""
        squares = math.fsum(n * cost.likely_s**2 for n, cost in self.parts) / slots
        return _DEVIATIONS * self.spread * math.sqrt(squares + likely_s**2 / max(1, self.measured))


class Timeline:
    """Sweeps one after the other, each run in the slot that is free first.

    A slot's speed is against the mean of those by which costs were measured.
    """

    def __init__(self, speeds: Sequence[float] = (1.0,)) -> None:
        self._slots = {name: [(0.0, speed) for speed in speeds] for name in _BOUNDS}
        self._until = NOTHING
        self._until_raw = NOTHING
        self._known = True

    def after(self, parts: Parts | None) -> Span | None:
        """When this sweep and all before it are done; None once nothing is known of one."""
        if parts is None or not self._known:
            self._known = False
            return None
        slots = len(self._slots["likely_s"])
        one = slots == 1 and self._slots["likely_s"][0][1] == 1.0
        own = parts.span if one else self._shared(parts)
        off = parts.off(own.likely_s, slots)
        self._until += Span(max(0.0, own.low_s - off), own.likely_s, own.high_s + off)
        return self._until

    def _shared(self, parts: Parts) -> Span:
        """By how much later all slots are free with these runs."""
        ends = {}
        for name, free in self._slots.items():
            for n, cost in parts.parts:
                _fill(free, n, getattr(cost, name))
            ends[name] = max(at for at, _ in free)
        before, self._until_raw = self._until_raw, Span(**ends)
        return Span(*(getattr(self._until_raw, name) - getattr(before, name) for name in _BOUNDS))


def _fill(free: list[tuple[float, float]], n: int, cost_s: float) -> None:
    """Put n runs of a cost into the slots, a heap of when each is free, with its speed."""
    # All but the last rounds of very many runs are shared out by speed.
    bulk = max(0, n // len(free) - _ROUNDS) * len(free)
    all_speeds = math.fsum(speed for _, speed in free)
    shares = [int(bulk * speed / all_speeds + _ROUNDING) for _, speed in free]
    free[:] = [
        (at + share * cost_s / speed, speed)
        for share, (at, speed) in zip(shares, free, strict=True)
    ]
    heapq.heapify(free)
    for _ in range(n - sum(shares)):
        at, speed = free[0]
        heapq.heapreplace(free, (at + cost_s / speed, speed))


def parts_of(work: Work, progress: Mapping[int, Progress]) -> Parts | None:
    """What is left of a sweep; None where nothing is known of its time.

    Runs that a user has paused do not count: they may stay so without end.
    """
    costs = _Costs(work, progress)
    parts: list[tuple[int, Span | None]] = [
        (1, _rest(run, progress[run.id], costs)) for run in work.begun if not _is_put_away(run)
    ]
    parts += [(n, costs.of(kind)) for kind, n in _untouched(work).items()]
    parts += [(work.to_come, costs.any())] if work.to_come else []
    known = [(n, cost) for n, cost in parts if cost is not None]
    if len(known) < len(parts):
        return None
    return Parts(known, costs.spread, costs.measured)


def _is_put_away(run: Run) -> bool:
    return run.state is RunState.PAUSED and run.rung is None


def _untouched(work: Work) -> Counter[str]:
    """How many runs of each kind are to be trained from their beginning."""
    waiting: Counter[str] = Counter()
    for share in work.shares:
        if share.state not in END_STATES and share.state is not RunState.PAUSED:
            waiting[share.kind] += share.n
    waiting.subtract(run.kind for run in work.begun if run.state is not RunState.PAUSED)
    waiting.subtract(work.waiting_duplicates)
    return +waiting


def _rest(run: Run, now: Progress, costs: "_Costs") -> Span | None:
    """The seconds that a run which has begun still takes."""
    done, total = now.update or 0, now.updates_total
    if now.s_per_update and total:
        rest = now.s_per_update * max(0, total - done)
        return Span(rest, rest, rest)
    cost = costs.of(run.kind)
    if cost is None:
        return None
    share = 1.0 - done / total if total else 1.0
    # At a rung it is not known which of them go on.
    low = 0.0 if run.state is RunState.PAUSED else cost.low_s * share
    return Span(low, cost.likely_s * share, cost.high_s * share)


class _Costs:
    """The seconds that a whole run takes, by kind: measured to the end, or projected."""

    def __init__(self, work: Work, progress: Mapping[int, Progress]) -> None:
        own = _means(share for share in work.shares if share.state is RunState.COMPLETED)
        self._means = {**_projected(work.begun, progress), **_means(work.similar_runs), **own}
        self.measured = sum(
            share.timed
            for share in (*work.shares, *work.similar_runs)
            if share.state is RunState.COMPLETED
        )
        self.spread = _spread(work.sample, own)

    def of(self, kind: str) -> Span | None:
        """The seconds that a run of a kind takes; between those of other kinds, if need be."""
        mean = self._means.get(kind)
        if mean is not None:
            return Span(mean, mean, mean)
        return self.any() if len(self._means) > 1 else None

    def any(self) -> Span | None:
        """The seconds of a run that may be of any kind."""
        means = self._means.values()
        if not means:
            return None
        return Span(min(means), math.fsum(means) / len(means), max(means))


def _means(shares: Iterable[Share]) -> dict[str, float]:
    """The mean seconds of a timed run, by kind."""
    timed: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for share in shares:
        if share.timed:
            timed[share.kind] += share.timed
            seconds[share.kind] += share.wall_s
    return {kind: seconds[kind] / n for kind, n in timed.items()}


def _projected(begun: Sequence[Run], progress: Mapping[int, Progress]) -> dict[str, float]:
    """What the run that runs will have taken at its end, from its pace."""
    found = {}
    for run in begun:
        now = progress[run.id]
        if run.state is RunState.RUNNING and now.s_per_update and now.updates_total:
            found[run.kind] = now.s_per_update * now.updates_total
    return found


def _spread(sample: Sequence[tuple[str, float]], means: Mapping[str, float]) -> float:
    """The relative standard deviation of runs of one kind, pooled over the kinds."""
    offs = [(seconds / means[kind] - 1.0) ** 2 for kind, seconds in sample if kind in means]
    kinds = {kind for kind, _ in sample if kind in means}
    freedom = max(0, len(offs) - len(kinds))
    return math.sqrt((_SPREAD**2 + math.fsum(offs)) / (1 + freedom))
