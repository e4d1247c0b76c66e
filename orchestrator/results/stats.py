"""How sure a result is: means, intervals, and whether one setting beats another; pure.

Interquartile mean, percentile bootstrap within each group and probability of improvement as in
rliable (Agarwal et al., NeurIPS 2021). With the few seeds that a sweep can afford the plain
percentile interval is too narrow, so it is expanded (T. Hesterberg, What Teachers Should Know About
the Bootstrap, 2015, section 3.3), and the verdict rests on Student's t. Numbers only: which runs
they belong to is handled in `leaderboard.py`.
"""

import functools
import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# As many resamples are listed one by one (five values: 5 ** 5), beyond it 4,000 are drawn.
MAX_LISTED = 3125
RESAMPLES = 4000
# Below this probability of chance a difference is reported as one.
ALPHA = 0.05

Interval = tuple[float, float]
Statistic = Callable[[Sequence[float]], float]


# --- summaries


def mean(values: Sequence[float]) -> float:
    """The arithmetic mean, the same in whatever order the values come."""
    return math.fsum(values) / len(values)


def iqm(values: Sequence[float]) -> float:
    """The interquartile mean: a quarter of the values, rounded down, is left out at each end.

    With fewer than four values that is the mean (rliable: scipy's trim_mean at 0.25).
    """
    cut = len(values) // 4
    return mean(sorted(values)[cut : len(values) - cut])


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values with linear interpolation (R's type 7, numpy's default)."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


# --- bootstrap


def interval(values: Sequence[float], statistic: Statistic = mean) -> Interval | None:
    """The 95% bootstrap interval of a statistic; None for fewer than two values.

    The expanded percentile interval: of the statistics of all resamples (drawn with a fixed seed
    where there are more than MAX_LISTED) the quantiles q and 1 - q with q = `tail(n)`; it depends
    on the values alone, not on their order. Measured on normal values it holds the true mean in 50%
    of cases for two seeds, 75% for three (for both it is the range), 92% for five and 96% for ten;
    the plain percentile interval does in 48%, 67%, 83% and 92%.
    """
    return stratified_interval([values], lambda strata: statistic(strata[0]))


def stratified_interval(
    strata: Sequence[Sequence[float]], statistic: Callable[[Sequence[Sequence[float]]], float]
) -> Interval | None:
    """As `interval`, for a statistic of several groups, each resampled within itself.

    The groups may be two settings, or the seeds of each task; the smallest one sets the tails. None
    where a group has one value.
    """
    fewest = min(len(values) for values in strata)
    if fewest < 2:
        return None
    found = sorted(statistic(resample) for resample in _resamples([sorted(v) for v in strata]))
    q = tail(fewest)
    return quantile(found, q), quantile(found, 1 - q)


@functools.cache
def tail(n: int) -> float:
    """The share beyond each end of a 95% interval of n values: Phi(-sqrt(n / (n - 1)) * t).

    t is the 97.5% quantile of Student's t with n - 1 degrees of freedom; 2.5% for many values.
    """
    low, high = 0.0, 1e3
    for _ in range(100):
        t = (low + high) / 2
        low, high = (t, high) if student_p(t, n - 1) > 0.05 else (low, t)
    return statistics.NormalDist().cdf(-math.sqrt(n / (n - 1)) * high)


def _resamples(strata: Sequence[Sequence[float]]) -> Iterator[Sequence[Sequence[float]]]:
    if math.prod(len(values) ** len(values) for values in strata) <= MAX_LISTED:
        yield from itertools.product(*(itertools.product(v, repeat=len(v)) for v in strata))
        return
    # Only random() is promised to stay the same from one Python to the next.
    draw = random.Random(0).random
    for _ in range(RESAMPLES):
        yield [[values[int(draw() * len(values))] for _ in values] for values in strata]


# --- one setting against another


@dataclass(frozen=True)
class Comparison:
    """A first setting against a second.

    `probability` that a run of the first beats a run of the second, ties counted half, with its
    bootstrap interval; `difference` of the means, first minus second, and `p`, the probability of
    a difference at least this large where there is none. What one run cannot tell is None.
    """

    probability: float
    probability_ci95: Interval | None
    difference: float
    p: float | None
    verdict: Literal["first", "second", "not distinguishable", "n=1, no interval"]
    paired: bool

    def __str__(self) -> str:
        if self.p is None:
            return self.verdict
        words = {"first": "the first is better", "second": "the second is better"}
        return f"{words.get(self.verdict, self.verdict)} (p = {self.p:.2g})"


def compare_settings(
    first: Mapping[int, float],
    second: Mapping[int, float],
    *,
    goal: str = "max",
    paired: bool = False,
) -> Comparison:
    """Compare the values of two settings by seed.

    Unpaired: Welch's t test, and every run of the first meets every run of the second. Paired:
    Student's t test of the differences seed by seed, over the seeds that both have; for settings
    whose runs share what a seed decides. Without any spread p is that of the permutation test.
    """
    if paired:
        seeds = sorted(first.keys() & second.keys())
        if not seeds:
            raise ValueError("no seed in common")
        return _paired([first[s] for s in seeds], [second[s] for s in seeds], goal)
    return _unpaired(list(first.values()), list(second.values()), goal)


def _unpaired(a: Sequence[float], b: Sequence[float], goal: str) -> Comparison:
    def wins(strata: Sequence[Sequence[float]]) -> float:
        return mean([_win(x, y, goal) for x in strata[0] for y in strata[1]])

    difference = mean(a) - mean(b)
    p = welch_p(a, b) if len(a) > 1 and len(b) > 1 else None
    return Comparison(
        wins([a, b]), stratified_interval([a, b], wins), difference, p,
        _verdict(difference, p, goal), paired=False,
    )  # fmt: skip


def _paired(a: Sequence[float], b: Sequence[float], goal: str) -> Comparison:
    differences = [x - y for x, y in zip(a, b, strict=True)]

    def wins(values: Sequence[float]) -> float:
        return mean([_win(value, 0.0, goal) for value in values])

    p = paired_p(differences) if len(differences) > 1 else None
    difference = mean(differences)
    return Comparison(
        wins(differences), interval(differences, wins), difference, p,
        _verdict(difference, p, goal), paired=True,
    )  # fmt: skip


def _win(x: float, y: float, goal: str) -> float:
    return 0.5 if x == y else float((x > y) is (goal == "max"))


def _verdict(
    difference: float, p: float | None, goal: str
) -> Literal["first", "second", "not distinguishable", "n=1, no interval"]:
    if p is None:
        return "n=1, no interval"
    if p >= ALPHA or difference == 0:
        return "not distinguishable"
    return "first" if (difference > 0) is (goal == "max") else "second"


def welch_p(a: Sequence[float], b: Sequence[float]) -> float:
    """The two-sided p of Welch's t test; of the permutation test where neither group spreads.

    B. L. Welch, Biometrika 34 (1947). Both groups have two values or more.
    """
    va, vb = _variance(a) / len(a), _variance(b) / len(b)
    difference = mean(a) - mean(b)
    if va + vb == 0:
        return 1.0 if difference == 0 else min(1.0, 2 / math.comb(len(a) + len(b), len(a)))
    degrees = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    return student_p(difference / math.sqrt(va + vb), degrees)


def paired_p(differences: Sequence[float]) -> float:
    """The two-sided p of Student's t test; of the sign-flip test where nothing spreads."""
    n, spread = len(differences), _variance(differences)
    if spread == 0:
        return 1.0 if differences[0] == 0 else 2 / 2**n
    return student_p(mean(differences) / math.sqrt(spread / n), n - 1)


def _variance(values: Sequence[float]) -> float:
    """The unbiased sample variance; exactly 0 where all values are equal."""
    if all(value == values[0] for value in values):
        return 0.0
    center = mean(values)
    return math.fsum((value - center) ** 2 for value in values) / (len(values) - 1)


def student_p(t: float, degrees: float) -> float:
    """The probability that Student's t with these degrees of freedom is at least |t| from 0."""
    return _incomplete_beta(degrees / (degrees + t * t), degrees / 2, 0.5)


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function (NIST DLMF 8.17.22, its continued fraction)."""
    if x <= 0 or x >= 1:
        return min(max(x, 0.0), 1.0)
    if x > (a + 1) / (a + b + 2):  # There the fraction of the other side converges.
        return 1 - _incomplete_beta(1 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    return math.exp(log_front) / a / _beta_fraction(x, a, b)


def _beta_fraction(x: float, a: float, b: float, terms: int = 300) -> float:
    """1 + d1/(1 + d2/(1 + ...)) from its far end, where 300 terms leave nothing to add."""
    value = 1.0
    for m in range(terms, 0, -1):
        k = m // 2
        if m % 2:
            d = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        else:
            d = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        value = 1 + d / value
    return value


# --- what a sweep has found over time


def best_so_far(
    runs: Iterable[tuple[float, float | None]], goal: str = "max"
) -> list[tuple[float, float]]:
    """The best value after each run against the time spent until then.

    `runs` are (time, value) in the order in which they ended; a run without a value spends its time
    too. Nothing comes out before the first value.
    """
    better = max if goal == "max" else min
    spent, best, points = 0.0, None, []
    for time, value in runs:
        spent += time
        if value is not None and math.isfinite(value):
            best = value if best is None else better(best, value)
        if best is not None:
            points.append((spent, best))
    return points
