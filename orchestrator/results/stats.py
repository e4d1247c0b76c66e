"""How sure a result is: means, intervals, and whether one setting beats another; pure.

Interquartile mean and probability of improvement as in rliable (Agarwal et al., NeurIPS 2021).
Intervals and verdicts rest on Student's t: a sweep affords two to five seeds, and so few values
resampled (rliable's bootstrap) give an interval that is much too narrow. Numbers only: which runs
they belong to is handled in `leaderboard.py`.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# Two values give a t interval 12.7 standard errors wide to each side: true, and of no use.
INTERVAL_FROM = 3
# Below this probability of chance a difference is reported as one.
ALPHA = 0.05

Interval = tuple[float, float]
Statistic = Literal["mean", "iqm"]


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


def center(values: Sequence[float], statistic: Statistic) -> float:
    """The mean, or the interquartile mean, of some values."""
    return iqm(values) if statistic == "iqm" else mean(values)


def quantile(ordered: Sequence[float], q: float) -> float:
    """The q-quantile of sorted values with linear interpolation (R's type 7, numpy's default)."""
    place = q * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


# --- intervals


def interval(values: Sequence[float], statistic: Statistic = "mean") -> Interval | None:
    """The 95% interval of the mean, or of the interquartile mean, by Student's t.

    None where no interval could hold that: for fewer than INTERVAL_FROM values that count, and
    for values that are all equal. Of the interquartile mean it is that of J. W. Tukey and
    D. H. McLaughlin (Sankhya A 25, 1963), in which what is cut off counts as the value next to it,
    with one degree of freedom less: theirs holds the truth in 93.5% to 94.4% of cases.
    """
    n = len(values)
    cut = n // 4 if statistic == "iqm" else 0
    inner = sorted(values)[cut : n - cut]
    kept = len(inner)
    if kept < INTERVAL_FROM:
        return None
    spread = _variance([min(max(value, inner[0]), inner[-1]) for value in values])
    if spread == 0:
        return None
    error = math.sqrt(spread * (n - 1) / (kept * (kept - 1)))
    middle, off = mean(inner), t_quantile(kept - 1 - (cut > 0)) * error
    return middle - off, middle + off


@functools.cache
def t_quantile(degrees: int) -> float:
    """The 97.5% quantile of Student's t: 12.7 for one degree of freedom, 1.96 for many."""
    low, high = 0.0, 13.0
    for _ in range(60):
        t = (low + high) / 2
        low, high = (t, high) if student_p(t, degrees) > 0.05 else (low, t)
    return high


# --- one setting against another


@dataclass(frozen=True)
class Comparison:
    """A first setting against a second.

    `probability` that a run of the first beats a run of the second, ties counted half, counted
    over `meetings` of two runs; `difference` of the means, first minus second, and `p`, the
    probability of a difference at least this large where there is none. What one run cannot tell
    is None.
    """

    probability: float
    meetings: int
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
    first: Mapping[str, float], second: Mapping[str, float], *, goal: str = "max"
) -> Comparison:
    """Compare two settings, whose values are given by what else their runs share, such as a seed.

    Where two or more runs have a partner in the other setting, pair by pair over these: Student's
    t test of the differences, which leaves out what a seed does to both. Else Welch's t test, and
    every run of the first meets every run of the second. Without any spread p is that of the
    permutation test.
    """
    shared = sorted(first.keys() & second.keys())
    if len(shared) >= 2:
        # 0.31 - 0.30 and 0.41 - 0.40 are one difference; their last bits would be a spread.
        return _paired([float(f"{first[key] - second[key]:.12g}") for key in shared], goal)
    return _unpaired(list(first.values()), list(second.values()), goal)


def _unpaired(a: Sequence[float], b: Sequence[float], goal: str) -> Comparison:
    wins = [_win(x - y, goal) for x in a for y in b]
    p = welch_p(a, b) if len(a) > 1 and len(b) > 1 else None
    return _comparison(wins, mean(a) - mean(b), p, goal, paired=False)


def _paired(differences: Sequence[float], goal: str) -> Comparison:
    wins = [_win(difference, goal) for difference in differences]
    return _comparison(wins, mean(differences), paired_p(differences), goal, paired=True)


def _comparison(
    wins: Sequence[float], difference: float, p: float | None, goal: str, *, paired: bool
) -> Comparison:
    verdict = _verdict(difference, p, goal)
    return Comparison(mean(wins), len(wins), difference, p, verdict, paired)


def _win(difference: float, goal: str) -> float:
    return 0.5 if difference == 0 else float((difference > 0) is (goal == "max"))


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
