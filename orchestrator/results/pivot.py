"""The objective of a sweep by the values of one or two parameters, over all others; pure.

A cell is the mean over the completed runs with these values, whatever their seeds and other
parameters are. Values are compared with each other, pair by pair, in `leaderboard.by_parameter`.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.results import stats
from orchestrator.results.objective import interval
from orchestrator.run import Judged, Objective, Run, RunState

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
    if isinstance(value, int | float) and not isinstance(value, bool):
        return (0, float(value), "")
    return (1, 0.0, json.dumps(value))
