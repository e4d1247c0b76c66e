"""The objective of a sweep by the values of one or two parameters, over all others; pure.

A cell is the mean over the completed runs with these values, whatever their seeds and other
parameters are. Values are compared with each other, pair by pair, in `leaderboard.by_parameter`.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.results import stats
from orchestrator.results.objective import interval
from orchestrator.run import Objective, Run, RunState

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
    runs: tuple[Run, ...]
    others: Mapping[RunState, int]
    best: bool = False

    @property
    def n(self) -> int:
        """How many runs the mean rests on."""
        return len(self.runs)


def cells(
    runs: Sequence[Run],
    keys: Sequence[str],
    base: Mapping[str, Any],
    objective: Objective,
    value_of: Callable[[Run], float | None],
) -> list[Cell]:
    """A cell for each combination of values that there is, sorted; the best of them marked.

    `base` has the values of runs that do not set a key, `value_of` the objective of a run.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(json.dumps(_values(run, keys, base)), []).append(run)
    found = [
        _cell(_values(group[0], keys, base), group, objective, value_of)
        for group in groups.values()
    ]
    found.sort(key=lambda cell: [order(value) for value in cell.values])
    means = [cell.mean for cell in found if cell.mean is not None]
    if not means:
        return found
    best = max(means) if objective.goal == "max" else min(means)
    return [_marked(cell, cell.mean == best) for cell in found]


def _marked(cell: Cell, best: bool) -> Cell:
    return Cell(cell.values, cell.mean, cell.ci95, cell.runs, cell.others, best)


def _values(run: Run, keys: Sequence[str], base: Mapping[str, Any]) -> Values:
    own = {"seed": run.seed, **run.overrides}
    return tuple(own.get(key, base.get(key)) for key in keys)


def _cell(
    values: Values,
    group: Sequence[Run],
    objective: Objective,
    value_of: Callable[[Run], float | None],
) -> Cell:
    reached = [(run, value_of(run)) for run in group if run.state is RunState.COMPLETED]
    known = [(run, value) for run, value in reached if value is not None and math.isfinite(value)]
    done = {run.id for run, _ in known}
    numbers = [value for _, value in known]
    return Cell(
        values,
        stats.mean(numbers) if numbers else None,
        interval(numbers, objective),
        tuple(run for run, _ in known),
        Counter(run.state for run in group if run.id not in done),
    )


def order(value: Any) -> tuple[int, float, str]:
    """Numbers by size, then everything else by its text."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, json.dumps(value))
