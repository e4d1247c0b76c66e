"""Distributions of a sweep's parameters: a number in (0, 1) -> a value, and the way back; pure.

`spec/distributions.py` reads them from a spec, the numbers in (0, 1) come from `search/draws.py`.
Sampled floats are rounded to six digits: they read well, `--set` brings them back,
and a last bit in which the C libraries of two machines differ does not show.
"""

import math
import statistics
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Protocol

DIGITS = 6
_STANDARD = statistics.NormalDist()
# Beyond seven standard deviations the normal distribution has no values to offer.
_TAIL = 1e-12


class Domain(Protocol):
    """The values that a parameter can take, with how likely each is."""

    def pick(self, u: float) -> Any:
        """The value at the share `u` in [0, 1] of the distribution."""

    def place(self, value: Any) -> float | None:
        """The share at which `pick` gives the value; None where the domain does not hold it."""

    @property
    def size(self) -> int | None:
        """How many values there are; None for a continuum."""


@dataclass(frozen=True)
class Uniform:
    """Every number between `low` and `high` with equal probability."""

    low: float
    high: float

    @property
    def size(self) -> int | None:
        """A continuum."""
        return None

    def pick(self, u: float) -> float:
        """The number at the share `u` of the way."""
        value = self.low + u * (self.high - self.low)
        return _within(round(value, _decimals(self.high - self.low)), value, self.low, self.high)

    def place(self, value: Any) -> float | None:
        """The share of the way at which the number lies."""
        if not self.low <= value <= self.high:
            return None
        return (value - self.low) / (self.high - self.low)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class LogUniform:
    """Every order of magnitude between `low` and `high` with equal probability; both above 0."""

    low: float
    high: float

    @property
    def size(self) -> int | None:
        """A continuum."""
        return None

    def pick(self, u: float) -> float:
        """The number at the share `u` of the way from log(low) to log(high)."""
        value = self.low * (self.high / self.low) ** u
        digits = DIGITS + max(0, -Decimal(repr(self.high / self.low - 1)).adjusted())
        return _within(float(f"{value:.{min(digits, 17) - 1}e}"), value, self.low, self.high)

    def place(self, value: Any) -> float | None:
        """The share of the way, in logarithms, at which the number lies."""
        if not self.low <= value <= self.high:
            return None
        return math.log(value / self.low) / math.log(self.high / self.low)


@dataclass(frozen=True)
class Normal:
    """The normal distribution, cut off at `low` and `high`."""

    mean: float
    sd: float
    low: float = -math.inf
    high: float = math.inf

    @property
    def size(self) -> int | None:
        """A continuum."""
        return None

    def pick(self, u: float) -> float:
        """The quantile `u` of the distribution between its ends."""
        bottom, top = self.ends()
        share = min(max(bottom + u * (top - bottom), _TAIL), 1 - _TAIL)
        value = self.mean + self.sd * _STANDARD.inv_cdf(share)
        return _within(round(value, _decimals(self.sd)), value, self.low, self.high)

    def place(self, value: Any) -> float | None:
        """The share of the distribution between its ends that lies below the number."""
        if not self.low <= value <= self.high:
            return None
        bottom, top = self.ends()
        return (_STANDARD.cdf((value - self.mean) / self.sd) - bottom) / (top - bottom)

    def ends(self) -> tuple[float, float]:
        """The shares of the whole distribution below `low` and below `high`."""
        return (
            _STANDARD.cdf((self.low - self.mean) / self.sd),
            _STANDARD.cdf((self.high - self.mean) / self.sd),
        )


@dataclass(frozen=True)
class Stepped:
    """`low`, `low + step`, ... : `size` values, equally likely; whole numbers where `whole`."""

    low: float
    step: float
    size: int
    whole: bool

    def pick(self, u: float) -> float:
        """The value whose slice of (0, 1) holds `u`."""
        return self.at(min(int(u * self.size), self.size - 1))

    def place(self, value: Any) -> float | None:
        """The middle of the value's slice."""
        index = self.index(value)
        return None if index is None else (index + 0.5) / self.size

    def at(self, index: int) -> float:
        """The value number `index`, computed in decimal: 0.1 + 2 * 0.1 is 0.3."""
        if self.whole:
            return int(self.low) + index * int(self.step)
        return float(Decimal(repr(self.low)) + index * Decimal(repr(self.step)))

    def index(self, value: Any) -> int | None:
        """The number of the value; None where it is no value of the domain."""
        index = round((value - self.low) / self.step)
        return index if 0 <= index < self.size and self.at(index) == value else None


@dataclass(frozen=True)
class LogInt:
    """Whole numbers from `low` to `high`, each as likely as its width on a logarithmic scale."""

    low: int
    high: int
    whole: bool = True

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return self.high - self.low + 1

    def pick(self, u: float) -> float:
        """The whole number nearest to the share `u` of the way, in logarithms."""
        bottom, top = self.low - 0.5, self.high + 0.5
        number = min(max(math.floor(bottom * (top / bottom) ** u + 0.5), self.low), self.high)
        return number if self.whole else float(number)

    def place(self, value: Any) -> float | None:
        """The share of the way, in logarithms, at which the number lies."""
        if value != int(value) or not self.low <= value <= self.high:
            return None
        bottom, top = self.low - 0.5, self.high + 0.5
        return math.log(value / bottom) / math.log(top / bottom)

    def at(self, index: int) -> float:
        """The number `low + index`."""
        return self.low + index if self.whole else float(self.low + index)


@dataclass(frozen=True)
class Choice:
    """One of `values`, with `weights` that sum to 1; numbers stand in ascending order."""

    values: tuple[Any, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, values: tuple[Any, ...], weights: tuple[float, ...] | None = None) -> "Choice":
        """A choice among values, equal ones taken together; equally likely without weights."""
        given = weights or (1.0,) * len(values)
        pairs: list[tuple[Any, float]] = []
        for value, weight in zip(values, given, strict=True):
            at = next((i for i, (other, _) in enumerate(pairs) if _same(other, value)), None)
            if at is None:
                pairs.append((value, weight))
            elif weights:
                pairs[at] = (value, pairs[at][1] + weight)
        if all(is_number(value) for value, _ in pairs):
            pairs.sort()
        total = sum(weight for _, weight in pairs)
        return cls(tuple(v for v, _ in pairs), tuple(w / total for _, w in pairs))

    @property
    def ordered(self) -> bool:
        """Whether neighbours resemble each other: all values are numbers."""
        return all(is_number(value) for value in self.values)

    @property
    def size(self) -> int:
        """How many values there are."""
        return len(self.values)

    def pick(self, u: float) -> Any:
        """The value whose slice of (0, 1) holds `u`."""
        reached = 0.0
        for value, weight in zip(self.values, self.weights, strict=True):
            reached += weight
            if u < reached:
                return value
        return self.values[-1]

    def place(self, value: Any) -> float | None:
        """The middle of the value's slice."""
        index = self.index(value)
        return None if index is None else sum(self.weights[:index]) + self.weights[index] / 2

    def at(self, index: int) -> Any:
        """The value number `index`."""
        return self.values[index]

    def index(self, value: Any) -> int | None:
        """The number of the value; None where it is no value of the domain."""
        return next((i for i, other in enumerate(self.values) if _same(other, value)), None)


def _same(a: Any, b: Any) -> bool:
    """Equal and of one kind: 1 is no True, 8 is 8.0."""
    return isinstance(a, bool) == isinstance(b, bool) and a == b


def is_number(value: Any) -> bool:
    """An int or a float; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _decimals(scale: float) -> int:
    """The decimal places that leave DIGITS digits to numbers of this size."""
    return DIGITS - 1 - Decimal(repr(scale)).adjusted()


def _within(rounded: float, exact: float, low: float, high: float) -> float:
    """The rounded value, or where rounding leads out of the range the exact one."""
    if low <= rounded <= high:
        return rounded
    return min(max(exact, low), high)
