"""The ETA: how long the rest takes, as a range, from runs of the same kind; pure.

Each run that is left is expected to take what like runs took: those of its sweep, or of another
sweep over the same base config, or the running run's pace. With e_i the seconds that are expected
of run i, r the relative spread of equal runs and N the number of measured ones, the sum is off by
r * sqrt(sum e_i^2) for the runs themselves and by r * sum e_i / sqrt(N) for the mean: the range is
two standard deviations of both. Nothing like it measured: unknown (None), never a guess.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.run import END_STATES, Progress, Run, RunState, Share

# Until equal runs have shown how much they differ: a quarter, with the weight of one run.
_SPREAD = 0.25
_DEVIATIONS = 2.0


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


def left(work: Work, progress: Mapping[int, Progress]) -> Span | None:
    """The seconds that the unfinished runs of a sweep will take; None where nothing is known.

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
    low, likely, high = (
        math.fsum(n * getattr(cost, name) for n, cost in known)
        for name in ("low_s", "likely_s", "high_s")
    )
    squares = math.fsum(n * cost.likely_s**2 for n, cost in known)
    off = _DEVIATIONS * costs.spread * math.sqrt(squares + likely**2 / max(1, costs.measured))
    return Span(max(0.0, low - off), likely, high + off)


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
