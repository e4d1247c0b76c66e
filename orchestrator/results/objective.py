"""The value of a run and the key of its setting, for everything that ranks or shows runs.

`leaderboard` ranks what comes from here; where a curve is read is `training_log`.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.results.training_log import finite_number, read_curve
from orchestrator.run import Objective, Run, RunState, Sweep


@dataclass(frozen=True)
class Score:
    """The value of the objective that one run reached."""

    run: Run
    value: float


def setting_key(overrides: Mapping[str, Any]) -> str:
    """Equal for runs of one setting, in whatever order their values stand; seeds are not in it."""
    return json.dumps(overrides, sort_keys=True)


def differing_keys(rows: Iterable[dict[str, Any]]) -> list[str]:
    """The keys whose values are not the same in all rows (a missing one is a value too).

    Those that most rows have come first: an explicit run may set what no other does.
    """
    found = list(rows)
    keys = [key for key, _ in Counter(key for row in found for key in row).most_common()]
    return [key for key in keys if len({json.dumps(row.get(key, _ABSENT)) for row in found}) > 1]


_ABSENT = "\0absent"


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


def run_value(run: Run, objective: Objective) -> float | None:
    """The value of the objective that a run reached: as recorded when it last left the GPU.

    While it trains, its log knows more, if that has a value yet.
    """
    now = read_value(run.folder, objective) if run.state is RunState.RUNNING else None
    return run.value if now is None else now


def completed_scores(runs: Iterable[Run], objective: Objective) -> list[Score]:
    """The completed runs that have a value; what was stopped early cannot be compared with them."""
    done = (run for run in runs if run.state is RunState.COMPLETED)
    found = ((run, run_value(run, objective)) for run in done)
    return [Score(run, value) for run, value in found if value is not None]


# --- another metric, for once

# Of these keys of the log less is better; of any other more is.
_LESS_IS_BETTER = ("loss", "grad_norm", "kl", "truncated_frac", "frac_reward_zero_std")


def by_metric(sweep: Sweep, runs: Iterable[Run], metric: str | None) -> tuple[Sweep, list[Run]]:
    """A sweep and its runs judged by another metric; as they are without one.

    Raises UsageError where no run has logged it.
    """
    found = list(runs)
    if metric is None or metric == sweep.objective.metric:
        return sweep, found
    known = dict.fromkeys(
        key for run in found for key, last in run.metrics.items() if finite_number(last) is not None
    )
    if metric not in known:
        # Not at the top: a status comes sooner without the fields of a configuration.
        from grpo_core.config import did_you_mean

        near = did_you_mean(metric, known) or f"; they logged {', '.join(known) or 'nothing'}"
        raise UsageError(f"--metric {metric}: no run of sweep {sweep.name} has logged it{near}")
    less = metric in _LESS_IS_BETTER or metric.endswith(("_s", "_bytes"))
    goal = "min" if less and not metric.endswith("_per_s") else "max"
    objective = replace(sweep.objective, metric=metric, goal=goal)
    judged = [replace(run, value=value_by(run, objective)) for run in found]
    return replace(sweep, objective=objective), judged


def value_by(run: Run, objective: Objective) -> float | None:
    """What a run reached by another objective than its own.

    By the log; where that is gone, the last metrics tell the last value, and no other.
    """
    value = read_value(run.folder, objective)
    if value is None and objective.reduce == "last":
        return finite_number(run.metrics.get(objective.metric))
    return value


def moved_rewards(scores: Sequence[Score]) -> dict[str, tuple[float, float]]:
    """Where all runs reached one value: the lowest and the highest of each reward that differs."""
    if len(scores) < 2 or len({score.value for score in scores}) > 1:
        return {}
    found = {}
    keys = dict.fromkeys(key for score in scores for key in score.run.metrics)
    for key in [k for k in keys if k == "reward_mean" or k.startswith("reward/")]:
        values = [
            v for score in scores if (v := finite_number(score.run.metrics.get(key))) is not None
        ]
        if values and min(values) < max(values):
            found[key] = (min(values), max(values))
    return found
