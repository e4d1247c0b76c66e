"""The value of a run and the key of its setting, for everything that ranks or shows runs.

`leaderboard` ranks what comes from here; where a curve is read is `training_log`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.results.training_log import read_curve
from orchestrator.run import Objective, Run, RunState


@dataclass(frozen=True)
class Score:
    """The value of the objective that one run reached."""

    run: Run
    value: float


def setting_key(overrides: Mapping[str, Any]) -> str:
    """Tells settings apart, as the ranking does."""
    return json.dumps(overrides, sort_keys=True)


def reduce_curve(values: Sequence[float], objective: Objective) -> float | None:
    """One number for a run from the values of its metric in logged order; None without any.

    `last`, `best` by the goal, or `last:N`, the mean of the last N.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    if objective.reduce == "best":
        return max(finite) if objective.goal == "max" else min(finite)
    count = int(objective.reduce.partition(":")[2] or 1)
    return math.fsum(finite[-count:]) / len(finite[-count:])


def read_value(folder: Path, objective: Objective) -> float | None:
    """What an objective is now by the run's log; None where that does not say."""
    return reduce_curve([value for _, value in read_curve(folder, objective.metric)], objective)


def objective_value(run: Run, objective: Objective) -> float | None:
    """The value that the run reached; from its log, else from what was recorded at its end."""
    values = [value for _, value in read_curve(run.folder, objective.metric)]
    recorded = run.metrics.get(objective.metric)
    if not values and isinstance(recorded, int | float) and math.isfinite(recorded):
        values = [float(recorded)]
    return reduce_curve(values, objective)


def scores(runs: Iterable[Run], objective: Objective) -> list[Score]:
    """The completed runs that have a value; what was stopped early cannot be compared with them."""
    done = (run for run in runs if run.state is RunState.COMPLETED)
    found = ((run, objective_value(run, objective)) for run in done)
    return [Score(run, value) for run, value in found if value is not None]
