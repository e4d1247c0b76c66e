"""Health rules: a condition on the training log that ends a run, whatever the rule of the sweep."""

import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from grpo_core.config import did_you_mean
from orchestrator.errors import SpecError
from orchestrator.results.training_log import finite_number
from orchestrator.run import StopCode
from orchestrator.stopping.curves import (
    Decision,
    LogLine,
    RunCurve,
    shown,
    update_of,
)
from orchestrator.text import short_number

# As many bad updates in a row as the trainer itself bears (its max_bad_updates).
NAN_UPDATES = 3
# Lines of the log that a decision shows as its evidence.
MAX_SHOWN = 5


@dataclass(frozen=True)
class HealthRule:
    """A condition on a metric that ends a run once it has held for `updates` updates in a row.

    The metric `nan` stands for a loss or gradient that is not finite (null in the log).
    """

    metric: str
    sign: str
    bound: float
    updates: int

    def holds(self, line: LogLine) -> bool | None:
        """Whether the condition holds in a line of the log; None where the line says nothing."""
        if self.metric == "nan":
            logged = [line[name] for name in ("loss", "grad_norm") if name in line]
            return None in map(finite_number, logged) if logged else None
        if self.metric not in line or line.get("split", "test") != "test":
            return None
        value = finite_number(line[self.metric])
        return value is not None and _SIGNS[self.sign](value, self.bound)

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
# Between 1e-99 and 1e99, so that what is shown can be read again.
_NUMBER = r"[-+]?(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:[eE][-+]?0{0,2}[0-7]?[0-9])?"
_UPDATES = "0{0,8}[1-9][0-9]{0,8}"
_HEALTH = re.compile(
    r" *(?:(?P<nan>nan)|(?P<metric>[\w/.-]+) *(?P<sign>==|!=|<=|>=|<|>) *(?P<bound>[-+.\w]+))"
    r"(?: +for +(?P<updates>[0-9]+))? *",
    re.ASCII,
)
_GRAMMAR = "write nan, or METRIC > NUMBER for UPDATES, such as 'frac_reward_zero_std == 1 for 20'"


def health_pattern(metrics: Collection[str]) -> str:
    """What `parse_health` reads, as one pattern for editors."""
    names = "|".join([*metrics, "(eval_)?reward/[a-zA-Z0-9_/.-]+"])
    condition = f"({names}) *(==|!=|<=|>=|<|>) *{_NUMBER}"
    return f"^ *(nan|{condition})( +for +{_UPDATES})? *$"


def parse_health(text: str, metrics: Collection[str]) -> HealthRule:
    """The rule that a text such as `kl > 0.5 for 5` stands for; one update without `for`.

    `metrics` are the keys of the log that can be named, beside reward/NAME and eval_reward/NAME;
    `nan` alone means three updates in a row, which the trainer skips too. Raises SpecError.
    """
    found = _HEALTH.fullmatch(text)
    if found is None:
        raise SpecError(f"{text!r}: cannot be read; {_GRAMMAR}")
    updates = found["updates"] or str(NAN_UPDATES if found["nan"] else 1)
    if not re.fullmatch(_UPDATES, updates):
        raise SpecError(f"{text!r}: must hold for at least 1 update, and for 999,999,999 at most")
    if found["nan"]:
        return HealthRule("nan", "", 0.0, int(updates))
    metric = found["metric"]
    if metric not in metrics and not re.fullmatch("(eval_)?reward/.+", metric):
        near = did_you_mean(metric, metrics)
        raise SpecError(f"{text!r}: {metric} is no key of the training log{near}")
    if not re.fullmatch(_NUMBER, found["bound"]):
        raise SpecError(f"{text!r}: {found['bound']} is no number; {_GRAMMAR}")
    return HealthRule(metric, found["sign"], float(found["bound"]), int(updates))


NAN = HealthRule("nan", "", 0.0, NAN_UPDATES)


def unhealthy(curve: RunCurve, rules: Iterable[HealthRule]) -> Decision | None:
    """The first moment at which one of the rules had held for long enough."""
    found = [decision for rule in rules if (decision := _breach(curve, rule)) is not None]
    return min(found, key=lambda decision: decision.update, default=None)


def _breach(curve: RunCurve, rule: HealthRule) -> Decision | None:
    """A line stands for the updates since the line before it, as runs may log every tenth only."""
    streak: list[LogLine] = []
    since = before = 0
    for line in curve.lines:
        held = rule.holds(line)
        if held is None:
            continue
        if not streak:
            since = before
        before = update_of(line)
        if not held:
            streak.clear()
            continue
        streak.append(line)
        if before - since >= rule.updates:
            reason = f"health: {rule} (held for {before - since} updates, up to {before})"
            code = StopCode.NOT_FINITE if rule.metric == "nan" else StopCode.HEALTH
            return Decision(curve.run, before, code, reason, _evidence(rule, streak))
    return None


def _evidence(rule: HealthRule, streak: Sequence[LogLine]) -> str:
    names = ("loss", "grad_norm") if rule.metric == "nan" else (rule.metric,)
    return "; ".join(
        f"update {update_of(line)}: "
        + ", ".join(f"{name} = {shown(name, line[name])}" for name in names if name in line)
        for line in streak[-MAX_SHOWN:]
    )
