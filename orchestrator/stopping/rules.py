"""When a run is stopped before its end, and why: health, median and halving; pure.

Functions of the logged curves alone, so that `replay` can tell what a rule would have done to a
sweep that is over. Median rule: as Optuna's MedianPruner, after Golovin et al., Google Vizier (KDD
2017), but compared with every run that came as far, not with completed ones only. Halving: Jamieson
& Talwalkar (AISTATS 2016), synchronous, because one worker has nobody to wait for. Nobody is
stopped without evidence: a missing value or a tie keeps a run alive. Acting on a decision is the
worker's business.
"""

import math
import operator
import re
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config import did_you_mean
from orchestrator.errors import SpecError
from orchestrator.numbers import short_number
from orchestrator.results.objective import reduce_curve
from orchestrator.run import END_STATES, Objective, RunState

Line = Mapping[str, Any]

RULES = ("none", "median", "halving")
# Fewer other runs have no median worth the name.
MIN_PEERS = 3
# As many bad updates in a row as the trainer itself bears (its max_bad_updates).
NAN_UPDATES = 3
MAX_SHOWN = 5


@dataclass(frozen=True)
class Curve:
    """A run as its rules see it: `lines` of its training log in order, `total` updates planned.

    Runs with the same `setting` differ in their seed only. `wall_s` is what the run took.
    """

    run: int
    setting: str
    lines: Sequence[Line]
    total: int
    state: RunState = RunState.RUNNING
    wall_s: float = 0.0

    @property
    def update(self) -> int:
        """The last update that is logged."""
        return max((_update(line) for line in self.lines), default=0)

    def points(self, metric: str, until: int | None = None) -> list[tuple[int, float]]:
        """(update, value) of a metric after training began; evaluations on held-out rows only."""
        return [
            (_update(line), float(line[metric]))
            for line in self.lines
            if _is_finite(line.get(metric))
            and line.get("split", "test") == "test"
            and 0 < _update(line) <= (self.total if until is None else until)
        ]

    def cut(self, update: int) -> "Curve":
        """The run as if it had been stopped after an update."""
        return replace(self, lines=[line for line in self.lines if _update(line) <= update])


@dataclass(frozen=True)
class Decision:
    """A stop: which run, after which update, why, and the logged values that it rests on."""

    run: int
    update: int
    reason: str
    evidence: str


# --- health


@dataclass(frozen=True)
class HealthRule:
    """A condition on a metric that ends a run once it has held for `updates` updates in a row.

    The metric `nan` stands for a loss or gradient that is not finite (null in the log).
    """

    metric: str
    sign: str
    bound: float
    updates: int

    def holds(self, line: Line) -> bool | None:
        """Whether the condition holds in a line of the log; None where the line says nothing."""
        if self.metric == "nan":
            logged = [line[name] for name in ("loss", "grad_norm") if name in line]
            return any(not _is_finite(value) for value in logged) if logged else None
        if self.metric not in line or line.get("split", "test") != "test":
            return None
        value = line[self.metric]
        return _is_finite(value) and _SIGNS[self.sign](value, self.bound)

    def __str__(self) -> str:
        if self.metric == "nan":
            return f"nan for {self.updates}"
        condition = f"{self.metric} {self.sign} {short_number(self.bound)}"
        return condition if self.updates == 1 else f"{condition} for {self.updates}"


_SIGNS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_HEALTH = re.compile(
    r"(?:(?P<nan>nan)|(?P<metric>[\w/.-]+)\s*(?P<sign>==|!=|<=|>=|<|>)\s*(?P<bound>[-+.\w]+))"
    r"(?:\s+for\s+(?P<updates>[0-9]{1,9}))?",
    re.ASCII,
)
_GRAMMAR = "write nan, or METRIC > NUMBER for UPDATES, such as 'frac_reward_zero_std == 1 for 20'"


def parse_health(text: str, metrics: Collection[str]) -> HealthRule:
    """The rule that a text such as `kl > 0.5 for 5` stands for; one update without `for`.

    `metrics` are the keys of the log that can be named, beside reward/NAME; `nan` alone means three
    updates in a row, which the trainer skips too. Raises SpecError.
    """
    found = _HEALTH.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"{text!r}: cannot be read; {_GRAMMAR}")
    updates = int(found["updates"] or (NAN_UPDATES if found["nan"] else 1))
    if updates < 1:
        raise SpecError(f"{text!r}: must hold for at least 1 update")
    if found["nan"]:
        return HealthRule("nan", "", 0.0, updates)
    metric = found["metric"]
    if metric not in metrics and not metric.startswith("reward/"):
        near = did_you_mean(metric, metrics)
        raise SpecError(f"{text!r}: {metric} is no key of the training log{near}")
    return HealthRule(metric, found["sign"], _bound(text, found["bound"]), updates)


def _bound(text: str, bound: str) -> float:
    try:
        number = float(bound)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise SpecError(f"{text!r}: {bound} is no number; {_GRAMMAR}")
    return number


NAN = HealthRule("nan", "", 0.0, NAN_UPDATES)


def unhealthy(curve: Curve, rules: Iterable[HealthRule]) -> Decision | None:
    """The first moment at which one of the rules had held for long enough."""
    found = [decision for rule in rules if (decision := _breach(curve, rule)) is not None]
    return min(found, key=lambda decision: decision.update, default=None)


def _breach(curve: Curve, rule: HealthRule) -> Decision | None:
    """A line stands for the updates since the line before it, as runs may log every tenth only."""
    streak: list[Line] = []
    since = before = 0
    for line in curve.lines:
        held = rule.holds(line)
        if held is None:
            continue
        if not streak:
            since = before
        before = _update(line)
        if not held:
            streak.clear()
            continue
        streak.append(line)
        if before - since >= rule.updates:
            reason = f"health: {rule} (held for {before - since} updates, up to {before})"
            return Decision(curve.run, before, reason, _evidence(rule, streak))
    return None


def _evidence(rule: HealthRule, streak: Sequence[Line]) -> str:
    names = ("loss", "grad_norm") if rule.metric == "nan" else (rule.metric,)
    return "; ".join(
        f"update {_update(line)}: "
        + ", ".join(f"{name} = {_shown(line[name])}" for name in names if name in line)
        for line in streak[-MAX_SHOWN:]
    )


# --- the rules of a sweep


@dataclass(frozen=True)
class StopRule:
    """The `[stop]` table: one of RULES, the share of a run that is left alone, health rules."""

    rule: str = "none"
    warmup: float = 0.3
    health: tuple[HealthRule, ...] = (NAN,)
    eta: int = 2
    """Halving keeps one setting in so many at each rung."""

    @property
    def rungs(self) -> tuple[float, ...]:
        """The shares of a run at which halving compares: 30% and 60% with the defaults."""
        shares, share = [], self.warmup
        while share < 1:
            shares.append(share)
            share *= self.eta
        return tuple(shares)


def parse_share(value: Any) -> float:
    """A share of a run from `"30%"` or 0.3, above 0 and below 1; SpecError otherwise."""
    number = value
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,3}(\.\d+)?\s*%\s*", value, re.ASCII):
        number = float(value.strip().rstrip("%")) / 100
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < 1:
        raise SpecError(f'{value!r}: must be a share above 0% and below 100%, such as "30%"')
    return float(number)


def judge(
    curve: Curve, peers: Iterable[Curve], rule: StopRule, objective: Objective
) -> Decision | None:
    """Whether a run stops now, by its health or by the median of its peers.

    `peers` are the other runs of the sweep; halving decides by itself, in `halving`.
    """
    sick = unhealthy(curve, rule.health)
    if sick is not None or rule.rule != "median":
        return sick
    return _below_median(curve, peers, rule, objective)


# --- median


def _below_median(
    curve: Curve, peers: Iterable[Curve], rule: StopRule, objective: Objective
) -> Decision | None:
    """The run's best value so far against the median of what its peers had at the same share."""
    own = curve.points(objective.metric)
    if not own or own[-1][0] < rule.warmup * curve.total:
        return None
    at = own[-1][0]
    best = (max if objective.goal == "max" else min)(value for _, value in own)
    others = [
        points[-1][1]
        for peer in peers
        if peer.run != curve.run
        and (then := at * peer.total / curve.total) <= peer.update
        and (points := peer.points(objective.metric, until=math.floor(then)))
    ]
    if len(others) < MIN_PEERS:
        return None
    median = statistics.median(others)
    if not _worse(best, median, objective):
        return None
    return Decision(
        curve.run,
        at,
        f"median: {objective.metric} {_shown(best)} at best, {_shown(median)} is the median "
        f"of {len(others)} runs at update {at}",
        f"update {at}: others {', '.join(_shown(value) for value in sorted(others))}",
    )


# --- halving


@dataclass(frozen=True)
class Course:
    """How a run goes on under halving: up to the update `until`, or out by `decision`.

    A run that has come to `until` waits for the others, unless that is its whole length.
    """

    until: int
    decision: Decision | None = None


def halving(curves: Sequence[Curve], rule: StopRule, objective: Objective) -> dict[int, Course]:
    """The course of every run of a sweep, from the curves that there are.

    At each rung the settings are compared by the mean over their seeds, once each of their runs has
    come so far or has ended; the best one in `eta` go on, and all that tie with the last of them.
    A decision looks at nothing behind its rung, so it stays the same when more is logged.
    """
    courses: dict[int, Course] = {}
    alive = list(curves)
    for number, share in enumerate(rule.rungs):
        rung = {curve.run: _at_share(share, curve.total) for curve in alive}
        arrived = [curve for curve in alive if curve.update >= rung[curve.run]]
        if any(c.update < rung[c.run] and c.state not in END_STATES for c in alive):
            return courses | {run: Course(until) for run, until in rung.items()}
        losers = _losers(arrived, rung, share, number, rule, objective)
        courses |= {run: Course(decision.update, decision) for run, decision in losers.items()}
        alive = [curve for curve in arrived if curve.run not in losers]
    return courses | {curve.run: Course(curve.total) for curve in alive}


def _losers(
    arrived: Sequence[Curve],
    rung: Mapping[int, int],
    share: float,
    number: int,
    rule: StopRule,
    objective: Objective,
) -> dict[int, Decision]:
    """Those that are worse than the last setting that goes on from a rung."""
    values = _setting_values(arrived, rung, objective)
    if not values:
        return {}
    ranked = sorted(values.values(), reverse=objective.goal == "max")
    keep = max(1, len(ranked) // rule.eta)
    last = ranked[keep - 1]
    told = ", ".join(_shown(value) for value in ranked)
    return {
        curve.run: Decision(
            curve.run,
            rung[curve.run],
            f"halving: {objective.metric} {_shown(values[curve.setting])} at {share:.0%} of the "
            f"run; the best {keep} of {len(ranked)} settings have {_shown(last)} or better",
            f"rung {number + 1}, update {rung[curve.run]}: {told}",
        )
        for curve in arrived
        if curve.setting in values and _worse(values[curve.setting], last, objective)
    }


def _setting_values(
    curves: Iterable[Curve], until: Mapping[int, int], objective: Objective
) -> dict[str, float]:
    """The mean over the seeds of each setting that has a value by then."""
    found: dict[str, list[float]] = {}
    for curve in curves:
        points = curve.points(objective.metric, until[curve.run])
        value = reduce_curve([value for _, value in points], objective)
        if value is not None:
            found.setdefault(curve.setting, []).append(value)
    return {setting: math.fsum(values) / len(values) for setting, values in found.items()}


# --- replay


@dataclass(frozen=True)
class Replay:
    """What a rule would have done to a sweep that is over.

    `winner` is the best setting of the sweep as it was, `chosen` the best one of those that the
    rule would have let finish, `lost` how much worse that is. Times are in seconds.
    """

    updates: int
    saved: int
    wall_s: float
    saved_s: float
    stopped: tuple[Decision, ...]
    winner: str | None
    chosen: str | None
    lost: float | None

    @property
    def share_saved(self) -> float:
        """The share of all updates that would not have been made."""
        return self.saved / self.updates if self.updates else 0.0

    @property
    def winner_killed(self) -> bool:
        """Whether the best setting would not have finished, nor one that is as good."""
        return self.winner is not None and self.lost != 0


def replay(curves: Sequence[Curve], rule: StopRule, objective: Objective) -> Replay:
    """Run a rule over finished curves, one run after the other in the order given.

    The curves of earlier runs are seen as the rule would have left them.
    """
    stopped = {decision.run: decision for decision in _replayed(curves, rule, objective)}
    saved = {
        c.run: max(0, c.update - stopped[c.run].update) if c.run in stopped else 0 for c in curves
    }
    finals = _setting_values(
        [c for c in curves if c.state is RunState.COMPLETED],
        {c.run: c.total for c in curves},
        objective,
    )
    finished = {c.setting for c in curves if c.run not in stopped} & finals.keys()
    best = max if objective.goal == "max" else min
    winner = best(finals, key=finals.__getitem__, default=None)
    chosen = best((s for s in finals if s in finished), key=finals.__getitem__, default=None)
    return Replay(
        updates=sum(c.update for c in curves),
        saved=sum(saved.values()),
        wall_s=math.fsum(c.wall_s for c in curves),
        saved_s=math.fsum(c.wall_s * saved[c.run] / c.update for c in curves if c.update),
        stopped=tuple(stopped[c.run] for c in curves if c.run in stopped),
        winner=winner,
        chosen=chosen,
        lost=None if winner is None or chosen is None else abs(finals[winner] - finals[chosen]),
    )


def _replayed(curves: Sequence[Curve], rule: StopRule, objective: Objective) -> Iterator[Decision]:
    left: list[Curve] = []
    for curve in curves:
        decision = unhealthy(curve, rule.health)
        if rule.rule == "median":
            decision = _first(decision, _median_replayed(curve, left, rule, objective))
        if decision is None:
            left.append(curve)
        else:
            left.append(replace(curve.cut(decision.update), state=RunState.PRUNED))
            yield decision
    if rule.rule == "halving":
        ended = [c if c.state in END_STATES else replace(c, state=RunState.FAILED) for c in left]
        courses = halving(ended, rule, objective)
        yield from (course.decision for course in courses.values() if course.decision)


def _median_replayed(
    curve: Curve, peers: Sequence[Curve], rule: StopRule, objective: Objective
) -> Decision | None:
    cuts = (curve.cut(update) for update, _ in curve.points(objective.metric))
    found = (_below_median(cut, peers, rule, objective) for cut in cuts)
    return next((decision for decision in found if decision is not None), None)


def _first(a: Decision | None, b: Decision | None) -> Decision | None:
    if a is None or b is None:
        return a or b
    return a if a.update <= b.update else b


# --- small things


def _at_share(share: float, total: int) -> int:
    """The first update at which this share of a run is done; 3 * 0.1 is 0.3 here."""
    return math.ceil(round(share * total, 9))


def _update(line: Line) -> int:
    update = line.get("update")
    return update if isinstance(update, int) else 0


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _worse(value: float, bound: float, objective: Objective) -> bool:
    return value < bound if objective.goal == "max" else value > bound


def _shown(value: Any) -> str:
    return f"{value:.4g}" if _is_finite(value) else "nan"
