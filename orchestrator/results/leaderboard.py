"""Which setting is best, and how sure that is: statistics over the runs of a sweep; pure.

A setting is a set of overrides; its runs differ in their seeds. Reads nothing: the values come
from whoever read the training logs. The statistics themselves are in `stats.py`.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.results import stats
from orchestrator.results.objective import Score, setting_key
from orchestrator.run import Objective, Run


@dataclass(frozen=True)
class RankedSetting:
    """A setting in the ranking; `mean` is what it is ranked by (or its interquartile mean).

    `ci95` is None where its runs are too few, or too equal, for an interval.
    """

    rank: int
    params: dict[str, Any]
    mean: float
    ci95: tuple[float, float] | None
    scores: tuple[Score, ...]

    @property
    def n(self) -> int:
        """How many runs the mean rests on."""
        return len(self.scores)

    @property
    def range(self) -> stats.Interval:
        """The lowest and the highest value."""
        return value_range(self.scores)


def interval(
    values: Sequence[float], objective: Objective, statistic: stats.Statistic = "mean"
) -> stats.Interval | None:
    """The 95% interval of what a setting reaches; exact match lies between 0 and 1."""
    found = stats.interval(values, statistic)
    if found is None or objective.metric != "em":
        return found
    return max(0.0, found[0]), min(1.0, found[1])


def by_setting(
    scores: Iterable[Score], objective: Objective, statistic: stats.Statistic = "mean"
) -> list[tuple[float, list[Score]]]:
    """(statistic, scores) of each setting, best first; equal ones in the order of the sweep."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(setting_key(score.run.overrides), []).append(score)
    found = [(stats.center(_values(group), statistic), group) for group in groups.values()]
    sign = -1.0 if objective.goal == "max" else 1.0
    return sorted(found, key=lambda entry: sign * entry[0])


def ranking(
    scores: Iterable[Score], objective: Objective, statistic: stats.Statistic = "mean"
) -> list[RankedSetting]:
    """The settings, best first by a statistic over their seeds; equal ones share a rank.

    Those that share one stand in the order of the sweep.
    """
    found = by_setting(scores, objective, statistic)
    values = [value for value, _ in found]
    return [
        RankedSetting(
            rank=values.index(value) + 1,
            params=group[0].run.overrides,
            mean=value,
            ci95=interval(_values(group), objective, statistic),
            scores=tuple(group),
        )
        for value, group in found
    ]


def best_over_time(
    runs: Iterable[Run], scores: Iterable[Score], objective: Objective
) -> list[tuple[float, float]]:
    """(seconds trained, best value) after each of the runs, in the order in which they ended.

    A run without a score, such as a failed one, takes its time all the same.
    """
    reached = {score.run.id: score.value for score in scores}
    spent = [(run.wall_s, reached.get(run.id)) for run in by_end(runs)]
    return stats.best_so_far(spent, objective.goal)


def by_end(runs: Iterable[Run]) -> list[Run]:
    """The runs that have ended, in the order in which they did."""
    return sorted((run for run in runs if run.ended), key=lambda run: run.ended or "")


def first_against_second(
    rows: Sequence[RankedSetting], objective: Objective
) -> stats.Comparison | None:
    """How sure it is that the best setting beats the next; None where there is only one."""
    return None if len(rows) < 2 else against(rows[0], rows[1], objective)


def against(first: RankedSetting, second: RankedSetting, objective: Objective) -> stats.Comparison:
    """How sure it is that a setting beats another."""
    ours, theirs = (_by_rest(row.scores, row.params) for row in (first, second))
    return stats.compare_settings(ours, theirs, goal=objective.goal)


@dataclass(frozen=True)
class Level:
    """All runs with one value of a parameter; `against` is the best level, run against run.

    Compared pair by pair where two or more runs have a partner in the best level with the same
    other parameters and seed.
    """

    value: Any
    mean: float
    ci95: tuple[float, float] | None
    n: int
    against: stats.Comparison | None
    range: stats.Interval


def by_parameter(scores: Iterable[Score], key: str, base: Any, objective: Objective) -> list[Level]:
    """The values of a parameter, best mean first, each compared with the best one.

    `base` stands for the value of runs that do not set it.
    """
    levels: dict[str, list[Score]] = {}
    for score in scores:
        levels.setdefault(json.dumps(score.run.overrides.get(key, base)), []).append(score)
    sign = -1.0 if objective.goal == "max" else 1.0
    ordered = sorted(levels.values(), key=lambda group: sign * _mean_of(group))
    return [_level(group, ordered[0], key, base, objective) for group in ordered]


def _level(
    group: Sequence[Score], best: Sequence[Score], key: str, base: Any, objective: Objective
) -> Level:
    against = None
    if group is not best:
        first, second = _by_rest(best, [key]), _by_rest(group, [key])
        against = stats.compare_settings(first, second, goal=objective.goal)
    return Level(
        group[0].run.overrides.get(key, base),
        _mean_of(group),
        interval(_values(group), objective),
        len(group),
        against,
        value_range(group),
    )


def _by_rest(group: Iterable[Score], compared: Collection[str]) -> dict[str, float]:
    """The value of each run by its seed and every parameter but those compared.

    Runs that share even that, as two of no seed do, have no partner: each has a key of its own.
    """
    found: dict[str, float] = {}
    for score in group:
        others = {k: v for k, v in score.run.overrides.items() if k not in compared}
        rest = json.dumps([others, score.run.seed], sort_keys=True)
        found[rest if rest not in found else f"run {score.run.id}"] = score.value
    return found


def value_range(scores: Sequence[Score]) -> stats.Interval:
    """The lowest and the highest value."""
    return min(_values(scores)), max(_values(scores))


def _mean_of(group: Sequence[Score]) -> float:
    return stats.mean(_values(group))


def _values(group: Sequence[Score]) -> list[float]:
    return [score.value for score in group]
