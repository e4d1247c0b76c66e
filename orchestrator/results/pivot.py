"""The objective of a sweep by the values of one or two parameters, over all others; pure.

A cell is the mean over the completed runs with these values, whatever their seeds and other
parameters are. Values are compared with each other, pair by pair, in `leaderboard.by_parameter`.
"""

import itertools
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.results import stats
from orchestrator.results.leaderboard import interval
from orchestrator.run import Judged, Objective, Run, RunState
from orchestrator.text import short_number, three_digits

Values = tuple[Any, ...]


@dataclass(frozen=True)
class Cell:
    """The runs with these values of the parameters; `mean` is None while none has a result.

    `ci95` is None where the runs are too few, or too equal, for an interval; `others` counts the
    runs without a result by state.
    """

    values: Values
    mean: float | None
    ci95: tuple[float, float] | None
    runs: tuple[Judged | Run, ...]
    others: Mapping[RunState, int]
    best: bool = False

    @property
    def n(self) -> int:
        """How many runs the mean rests on."""
        return len(self.runs)


def cells(
    runs: Sequence[Judged | Run],
    keys: Sequence[str],
    base: Mapping[str, Any],
    objective: Objective,
) -> list[Cell]:
    """A cell for each combination of values that there is, sorted; the best of them marked.

    `base` has the values of runs that do not set a key.
    """
    groups: dict[str, list[Judged | Run]] = {}
    for run in runs:
        groups.setdefault(repr(_values(run, keys, base)), []).append(run)
    found = [_cell(_values(group[0], keys, base), group, objective) for group in groups.values()]
    found.sort(key=lambda cell: [order(value) for value in cell.values])
    means = [cell.mean for cell in found if cell.mean is not None]
    if not means:
        return found
    best = max(means) if objective.goal == "max" else min(means)
    return [_marked(cell, cell.mean == best) for cell in found]


# More numbers than these are put into so many bins.
_VALUES_UP_TO = 12
_BINS = 5


def binned(
    runs: Sequence[Judged | Run], keys: Sequence[str], base: Mapping[str, Any]
) -> list[Judged | Run]:
    """The runs, with the bin of a number instead of it where a key has very many, as draws have.

    Bins hold equally many values each, and are named by their ends: `1e-6 … 2.4e-5`.
    """
    found = list(runs)
    for key in keys:
        all_values = (_values(run, (key,), base)[0] for run in found)
        values = {value for value in all_values if not isinstance(value, list | dict)}
        numbers = sorted(v for v in values if order(v)[0] == 0)
        if key == "seed" or len(numbers) <= _VALUES_UP_TO:
            continue
        edges = [round(i * len(numbers) / _BINS) for i in range(_BINS + 1)]
        parts = [numbers[a:b] for a, b in itertools.pairwise(edges)]
        bins = [(Bin(part[0], part[-1]), part) for part in parts]
        names = {value: one for one, part in bins for value in part}
        found = [_with(run, key, names, base) for run in found]
    return found


@dataclass(frozen=True)
class Bin:
    """Some numbers that lie beside each other, from `low` to `high`."""

    low: float
    high: float

    def __str__(self) -> str:
        low, high = (short_number(three_digits(float(value))) for value in (self.low, self.high))
        return f"{low} … {high}"


def _with(
    run: Judged | Run, key: str, names: Mapping[Any, Bin], base: Mapping[str, Any]
) -> Judged | Run:
    value = _values(run, (key,), base)[0]
    if isinstance(value, list | dict) or value not in names:
        return run
    overrides = {**run.overrides, key: names[value]}
    if isinstance(run, Judged):
        return run._replace(overrides=overrides)
    return replace(run, overrides=overrides)


def _marked(cell: Cell, best: bool) -> Cell:
    return Cell(cell.values, cell.mean, cell.ci95, cell.runs, cell.others, best)


def _values(run: Judged | Run, keys: Sequence[str], base: Mapping[str, Any]) -> Values:
    own = run.overrides
    return tuple(
        own[key] if key in own else run.seed if key == "seed" else base.get(key) for key in keys
    )


def _cell(values: Values, group: Sequence[Judged | Run], objective: Objective) -> Cell:
    reached = [run for run in group if run.state is RunState.COMPLETED]
    known = [run for run in reached if run.value is not None and math.isfinite(run.value)]
    done = {run.id for run in known}
    numbers = [run.value for run in known if run.value is not None]
    return Cell(
        values,
        stats.mean(numbers) if numbers else None,
        interval(numbers, objective),
        tuple(known),
        Counter(run.state for run in group if run.id not in done),
    )


def order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, Bin):
        return (0, value.low, "")
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, json.dumps(value))
