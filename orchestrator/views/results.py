"""What came of a sweep: the ranking of its settings, and its runs with their curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from orchestrator.results.leaderboard import Level, RankedSetting
from orchestrator.results.objective import differing_keys
from orchestrator.run import Objective, Run, RunState, Sweep
from orchestrator.text import (
    SHORT_NAMES,
    UNKNOWN,
    duration,
    metric,
    setting_value,
    sparkline,
)
from orchestrator.views.learning_curves import read_learning_curves
from orchestrator.views.tables import plain_table, value_cell

_CURVE_WIDTH = 16


# --- settings


def best_table(
    rows: Sequence[RankedSetting],
    objective: Objective,
    wide: bool,
    keys: Sequence[str] | None = None,
    brief: bool = False,
) -> Table:
    """The ranking, with a column for each of the `keys`, by default for those that differ in it.

    `wide` with the whole names; `brief` with three digits of a number and the ends of a text.
    """
    keys = differing_keys(row.params for row in rows) if keys is None else keys
    heads = [key if wide else SHORT_NAMES.get(key, key) for key in keys]
    columns = ("rank", *heads, objective.metric, _spread_head(rows), "n", "runs")
    table = plain_table(*columns, right=("rank", "n", *heads))
    for row in rows:
        write = value_cell if brief else setting_value
        values = [write(row.params[key]) if key in row.params else UNKNOWN for key in keys]
        table.add_row(
            str(row.rank),
            *values,
            metric(objective.metric, row.mean),
            _spread(row, objective),
            str(row.n),
            ", ".join(str(score.run.id) for score in row.scores),
        )
    return table


def _spread_head(rows: Sequence[RankedSetting] | Sequence[Level]) -> str:
    return "95% interval" if any(row.ci95 for row in rows) else "spread"


def _spread(row: RankedSetting | Level, objective: Objective) -> str:
    """The 95% interval; where there is none, what the few runs reached, and not called one."""
    if row.n == 1:
        return "n=1, no interval"
    low, high = (metric(objective.metric, value) for value in row.ci95 or row.range)
    if row.ci95 is not None:
        return f"{low} … {high}"
    return f"all {low}" if row.range[0] == row.range[1] else f"range {low} … {high}"


def levels_table(levels: Sequence[Level], key: str, objective: Objective) -> Table:
    """The values of a parameter, best first, each against the best."""
    columns = (key, objective.metric, _spread_head(levels), "n", "against the best")
    table = plain_table(*columns, right=(key, "n"))
    for level in levels:
        table.add_row(
            UNKNOWN if level.value is None else setting_value(level.value),
            metric(objective.metric, level.mean),
            _spread(level, objective),
            str(level.n),
            _against(level),
        )
    return table


def _against(level: Level) -> str:
    if level.against is None:
        return ""
    if level.against.p is None:
        return level.against.verdict
    words = {"first": "worse", "second": "better"}
    pairs = f", {level.against.meetings} pairs" if level.against.paired else ""
    verdict = words.get(level.against.verdict, level.against.verdict)
    return f"{verdict} (p = {level.against.p:.2g}{pairs})"


def no_result_words(sweep: Sweep, runs: Sequence[Run]) -> str:
    """That there is no result, and, once all is done, by what else the runs can be judged."""
    name = sweep.objective.metric
    if sweep.state in ("queued", "running", "paused"):
        return f"sweep {sweep.name} has no result yet for {name}"
    words = f"sweep {sweep.name} is {sweep.state} and has no result for {name}"
    if any(run.state is RunState.COMPLETED and "reward_mean" in run.metrics for run in runs):
        words += " (try --metric reward_mean)"
    return words


# --- runs


@dataclass(frozen=True)
class ResultRow:
    """A run with its held-out score at the start and at the end, and its reward curve."""

    run: Run
    metric: str
    before: float | None
    after: float | None
    rewards: tuple[float, ...]

    @property
    def learnt(self) -> bool:
        """Whether it solves more than before."""
        return self.before is not None and self.after is not None and self.after > self.before

    def value_text(self) -> str:
        """`31.2% → 45.5%`."""
        return f"{metric(self.metric, self.before)} → {metric(self.metric, self.after)}"


def result_rows(runs: Sequence[Run]) -> list[ResultRow]:
    """The runs, best held-out score first; those without any at the end."""
    rows = [_row(run) for run in runs]
    return sorted(rows, key=lambda row: -math.inf if row.after is None else row.after, reverse=True)


def _row(run: Run) -> ResultRow:
    curves = read_learning_curves(run.folder)
    scores = curves.scores
    done = run.state is RunState.COMPLETED and scores
    first, last = scores[0] if scores else None, scores[-1] if done else None
    return ResultRow(run, curves.name, first, last, curves.rewards)


def results_table(rows: Sequence[ResultRow], wide: bool) -> Table:
    """Rank, held-out score, and the reward curve on one scale for all; `wide` with the settings."""
    keys = differing_keys(row.run.overrides for row in rows) if wide else []
    by_answer = all(row.metric == "em" for row in rows)
    score = "exact match" if by_answer else "held-out reward"
    heads = ("rank", "run", *keys, score, "reward", "time")
    table = plain_table(*heads, right=("rank", "time", *keys))
    values = [value for row in rows for value in row.rewards]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    for rank, row in enumerate(rows, start=1):
        settings = [setting_value(row.run.overrides.get(key, UNKNOWN)) for key in keys]
        line = sparkline(row.rewards, _CURVE_WIDTH, low, high)
        table.add_row(
            str(rank) if row.after is not None else UNKNOWN,
            Text(row.run.name, style="bold" if rank == 1 else ""),
            *settings,
            row.value_text() if row.after is not None else str(row.run.state),
            Text(line, style="green"),
            duration(row.run.wall_s),
        )
    return table
