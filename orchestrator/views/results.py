"""The end of a sweep, run by run: exact match before and after, and the learning curves."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from orchestrator.leaderboard import differing_keys
from orchestrator.run import Run, RunState
from orchestrator.views.facts import curve
from orchestrator.views.text import UNKNOWN, duration, percent, setting_value, sparkline

_CURVE_WIDTH = 16


@dataclass(frozen=True)
class ResultRow:
    """A run with its held-out exact match at the start and at the end, and its reward curve."""

    run: Run
    before: float | None
    after: float | None
    rewards: tuple[float, ...]

    def words(self) -> str:
        """`31.2% → 45.5%`."""
        return f"{percent(self.before)} → {percent(self.after)}"


def result_rows(runs: Sequence[Run]) -> list[ResultRow]:
    """The runs, best exact match first; those without any at the end."""
    rows = [_row(run) for run in runs]
    return sorted(rows, key=lambda row: -math.inf if row.after is None else row.after, reverse=True)


def _row(run: Run) -> ResultRow:
    em = [value for _, value in curve(run.folder, "em")]
    rewards = tuple(value for _, value in curve(run.folder, "reward_mean"))
    done = run.state is RunState.COMPLETED and em
    return ResultRow(run, em[0] if em else None, em[-1] if done else None, rewards)


def results_table(rows: Sequence[ResultRow]) -> Table:
    """Rank, what differs, exact match, and the reward curve on one scale for all."""
    keys = differing_keys(row.run.overrides for row in rows)
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("rank", "run", *keys, "exact match", "reward", "time"):
        right = head in ("rank", "time", *keys)
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    values = [value for row in rows for value in row.rewards]
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    for rank, row in enumerate(rows, start=1):
        settings = [setting_value(row.run.overrides.get(key, UNKNOWN)) for key in keys]
        line = sparkline(row.rewards, _CURVE_WIDTH, low, high)
        table.add_row(
            str(rank) if row.after is not None else UNKNOWN,
            Text(row.run.name, style="bold" if rank == 1 else ""),
            *settings,
            row.words() if row.after is not None else str(row.run.state),
            Text(line, style="green"),
            duration(row.run.wall_s),
        )
    return table
