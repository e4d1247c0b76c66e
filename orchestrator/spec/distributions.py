"""A distribution of a sweep spec: its table -> a Domain that suits the field, or each fault.

`{ dist = "loguniform", min = 1e-6, max = 1e-4 }` and its like (docs/specs.md). What a domain
does with it: `space/distributions.py`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from grpo_core.config import FIELDS, check_value, did_you_mean
from grpo_core.errors import ConfigError
from orchestrator.errors import SpecError
from orchestrator.space.distributions import (
    Choice,
    Domain,
    LogInt,
    LogUniform,
    Normal,
    Stepped,
    Uniform,
    is_number,
)
from orchestrator.space.expressions import parse
from orchestrator.space.space import Parameter
from orchestrator.spec.positions import KeyPath

# A draw has 53 bits; a wider range would leave values that can never come up.
MAX_SIZE = 2**53

NoteFault = Callable[[KeyPath, str], None]

_COMMON = ("dist", "when")
DISTRIBUTION_KEYS: Mapping[str, tuple[str, ...]] = {
    "uniform": ("min", "max"),
    "loguniform": ("min", "max"),
    "int": ("min", "max", "step"),
    "logint": ("min", "max"),
    "quniform": ("min", "max", "step"),
    "normal": ("mean", "sd", "min", "max"),
    "choice": ("values", "weights"),
}
_OPTIONAL = {("int", "step"), ("normal", "min"), ("normal", "max"), ("choice", "weights")}
DISTRIBUTIONS = tuple(DISTRIBUTION_KEYS)


# Those that give whole numbers, and those that a whole-number field can be drawn from.
ON_WHOLE_NUMBERS = ("int", "logint")
_WHOLE = (*ON_WHOLE_NUMBERS, "quniform")
# Those on a logarithmic scale, which begins above 0.
LOGARITHMIC = ("loguniform", "logint")


def is_optional(dist: str, key: str) -> bool:
    """Whether a distribution can do without a key."""
    return (dist, key) in _OPTIONAL


def distributions_of(kind: str) -> tuple[str, ...]:
    """What a field of this type can be drawn from."""
    if kind == "float":
        return DISTRIBUTIONS
    return (*_WHOLE, "choice") if kind == "int" else ("choice",)


# What other tools call them.
_OTHER_NAMES = {
    "q": "step",
    "mu": "mean",
    "sigma": "sd",
    "std": "sd",
    "low": "min",
    "high": "max",
    "choices": "values",
    "options": "values",
    "p": "weights",
    "probabilities": "weights",
    "categorical": "choice",
    "randint": "int",
    "lograndint": "logint",
    "log_uniform_values": "loguniform",
    "distribution": "dist",
}


def read_domain(name: str, table: Mapping[str, Any], fault: NoteFault) -> Domain | None:
    """The distribution of the field `name`; None after giving `fault` each key and reason.

    Fits it to the field: whole numbers for whole numbers, and every value within its range.
    """
    return _DomainReader(name, table, fault).domain()


def read_parameter(name: str, table: Mapping[str, Any], fault: NoteFault) -> Parameter | None:
    """The parameter that a table such as `{ dist = "uniform", min = 0, max = 1 }` describes.

    None after giving `fault` the path below the table and the reason, for each that there is.
    """
    domain = read_domain(name, table, fault)
    if "when" not in table:
        return Parameter((name,), domain) if domain else None
    text = table["when"]
    if not isinstance(text, str):
        fault(("when",), f"{text!r}: must be text, such as \"loss_type == 'dapo'\"")
        return None
    try:
        condition = parse(text, FIELDS)
    except SpecError as e:
        for reason in e.faults:
            fault(("when",), reason)
        return None
    return Parameter((name,), domain, condition) if domain else None


@dataclass
class _DomainReader:
    name: str
    table: Mapping[str, Any]
    note: NoteFault
    sound: bool = True

    def domain(self) -> Domain | None:
        dist = self._dist()
        if dist is None:
            return None
        self._keys(dist)
        if not self.sound or not self._suits(dist):
            return None
        made: Domain | None = getattr(self, f"_{dist}")()
        return made if self.sound else None

    def _fault(self, key: str, text: str) -> None:
        self.sound = False
        self.note((key,) if key else (), text)

    def _dist(self) -> str | None:
        if "dist" not in self.table:
            near = "; write dist, not distribution" if "distribution" in self.table else ""
            if set(self.table) == {"values"}:
                near = "; or as an axis the list alone: [1e-5, 1e-4]"
            self._fault("", f"needs dist, one of {', '.join(DISTRIBUTIONS)}{near}")
            return None
        dist = self.table["dist"]
        if dist not in DISTRIBUTIONS:
            near = _nearest(str(dist), DISTRIBUTIONS)
            self._fault("dist", f"{dist!r}: must be one of {', '.join(DISTRIBUTIONS)}{near}")
            return None
        return str(dist)

    def _keys(self, dist: str) -> None:
        known = (*DISTRIBUTION_KEYS[dist], *_COMMON)
        for key in self.table:
            if key not in known:
                near = (
                    _nearest(key, known) or f"; {dist} takes {', '.join(DISTRIBUTION_KEYS[dist])}"
                )
                self._fault(key, f"unknown key{near}")
        for key in DISTRIBUTION_KEYS[dist]:
            if key not in self.table and (dist, key) not in _OPTIONAL:
                self._fault("", f"{dist} needs {key}")

    def _suits(self, dist: str) -> bool:
        """Whether the field can take what the distribution gives."""
        kind = FIELDS[self.name].type
        if dist in distributions_of(kind):
            return True
        fitting = f"{', '.join(_WHOLE)} or choice" if kind == "int" else "choice"
        self._fault("dist", f"{dist!r}: {self.name} is {_KINDS[kind]}; use {fitting}")
        return False

    # --- one method for each distribution; all keys that it needs are there

    def _uniform(self) -> Domain | None:
        low, high = self._range()
        return Uniform(float(low), float(high)) if self.sound else None

    def _loguniform(self) -> Domain | None:
        low, high = self._range(positive=True)
        return LogUniform(float(low), float(high)) if self.sound else None

    def _logint(self) -> Domain | None:
        low, high = self._range(positive=True, whole=True)
        if not self.sound:
            return None
        return LogInt(int(low), int(high), self._wants_whole())

    def _int(self) -> Domain | None:
        low, high = self._range(whole=True)
        step = self._number("step", whole=True) if "step" in self.table else 1
        return self._stepped(low, high, step)

    def _quniform(self) -> Domain | None:
        whole = self._wants_whole()
        low, high = self._range(whole=whole)
        return self._stepped(low, high, self._number("step", whole=whole))

    def _stepped(self, low: float, high: float, step: float) -> Domain | None:
        if step <= 0:
            self._fault("step", f"{step!r}: must be above 0")
        if not self.sound:
            return None
        size = int((_exact(high) - _exact(low)) / _exact(step)) + 1
        if size > MAX_SIZE:
            self._fault("step", f"{step!r}: makes {size:,} values; at most {MAX_SIZE:,}")
            return None
        whole = self._wants_whole()
        return Stepped(low, step, size, whole) if whole else Stepped(float(low), step, size, False)

    def _normal(self) -> Domain | None:
        mean, sd = self._number("mean"), self._number("sd")
        if sd <= 0:
            self._fault("sd", f"{sd!r}: must be above 0")
        low = self._number("min") if "min" in self.table else -math.inf
        high = self._number("max") if "max" in self.table else math.inf
        if low >= high:
            self._fault("min", f"{low!r}: must be below max, {high!r}")
        if not self.sound:
            return None
        for key, bound in (("min", low), ("max", high)):
            if key in self.table:
                self._field_takes(key, bound)
        below, above = _field_range(self.name)
        domain = Normal(float(mean), float(sd), max(low, below), min(high, above))
        bottom, top = domain.ends()
        if top - bottom < 1e-6:
            self._fault(
                "mean",
                f"{mean!r}: nearly all values lie outside of min and max, or of what "
                f"{self.name} takes",
            )
        return domain

    def _choice(self) -> Domain | None:
        values = self.table["values"]
        if not isinstance(values, list) or not values:
            self._fault("values", f"{values!r}: must be a list of at least one value")
            return None
        fitted = tuple(self._fitted(("values", i), value) for i, value in enumerate(values))
        weights = self._weights(len(values)) if "weights" in self.table else None
        return Choice.of(fitted, weights) if self.sound else None

    def _weights(self, count: int) -> tuple[float, ...] | None:
        weights = self.table["weights"]
        if not isinstance(weights, list) or len(weights) != count:
            self._fault("weights", f"{weights!r}: must be a list of {count} numbers, one a value")
            return None
        for i, weight in enumerate(weights):
            if not is_number(weight) or not math.isfinite(weight) or weight <= 0:
                self.sound = False
                self.note(("weights", i), f"{weight!r}: must be a number above 0")
        return tuple(weights)

    # --- numbers

    def _number(self, key: str, whole: bool = False) -> float:
        value = self.table[key]
        if not is_number(value) or not math.isfinite(value):
            self._fault(key, f"{value!r}: must be a number")
        elif whole and value != int(value):
            self._fault(key, f"{value!r}: must be a whole number")
        elif abs(value) >= 2**63:
            self._fault(key, f"{value!r}: does not fit 64 bits")
        else:
            return int(value) if whole else value
        return 1  # Stands in, so that the other keys are looked at too.

    def _range(self, positive: bool = False, whole: bool = False) -> tuple[float, float]:
        low, high = self._number("min", whole), self._number("max", whole)
        if not self.sound:
            return low, high
        if positive and low <= 0:
            self._fault("min", f"{low!r}: must be above 0 on a logarithmic scale")
        if low >= high:
            self._fault("min", f"{low!r}: must be below max, {high!r}")
        elif whole and high - low >= MAX_SIZE:
            self._fault("max", f"{high!r}: the range has more than {MAX_SIZE:,} values")
        for key, bound in (("min", low), ("max", high)):
            self._field_takes(key, bound)
        return low, high

    def _wants_whole(self) -> bool:
        return FIELDS[self.name].type == "int"

    def _field_takes(self, key: str, bound: float) -> None:
        self._fitted((key,), int(bound) if self._wants_whole() else float(bound))

    def _fitted(self, path: KeyPath, value: Any) -> Any:
        try:
            return check_value(self.name, value)
        except ConfigError as e:
            self.sound = False
            self.note(path, e.faults[0].removeprefix(f"{self.name} = "))
            return value


_KINDS = {
    "int": "a whole number",
    "bool": "true or false",
    "str": "text",
    "list[str]": "a list",
    "list[float]": "a list",
    "table": "a table",
}


def _exact(value: float) -> Fraction:
    return Fraction(Decimal(repr(value)))


def _field_range(name: str) -> tuple[float, float]:
    """The numbers that a field takes, ends included; the open ends are a hair's breadth inside."""
    info = FIELDS[name]
    lows = [-math.inf if info.min is None else info.min]
    highs = [math.inf if info.max is None else info.max]
    if info.above is not None:
        lows.append(math.nextafter(info.above, math.inf))
    if info.below is not None:
        highs.append(math.nextafter(info.below, -math.inf))
    return max(lows), min(highs)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    other = _OTHER_NAMES.get(name)
    return f"; did you mean {other}?" if other in known else did_you_mean(name, known)
