"""The status in a terminal: sweeps, runs and how far they are, as rich renderables."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.queue.eta import Span
from orchestrator.run import Objective, Progress, Run, RunState, Sweep
from orchestrator.text import (
    UNKNOWN,
    bar,
    counts,
    duration,
    metric,
    number,
    percent,
    plural,
    size,
    span,
)
from orchestrator.views.overview import Overview, updates_text

STATE_STYLES = {
    RunState.QUEUED: "dim",
    RunState.RUNNING: "bold cyan",
    RunState.PAUSED: "yellow",
    RunState.COMPLETED: "green",
    RunState.PRUNED: "magenta",
    RunState.FAILED: "bold red",
    RunState.CANCELLED: "dim",
}


def plain_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """An empty table of our kind: no frame, one line a row, `right` columns to the right."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    rights = set(right)
    for column in columns:
        justify: Any = "right" if column in rights else "left"
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def sweep_text(sweep: Sweep, left: Span | None) -> list[Text]:
    """`demo`, `running`, `2 completed, 3 queued`, `1m 40s – 2m 10s left`: the pieces of a line."""
    states = counts(sweep.counts)
    if sweep.to_ask:
        states = ", ".join(
            filter(None, [states, f"{plural(sweep.to_ask, 'setting')} to be chosen"])
        )
    words = [Text(sweep.name, style="bold"), Text(str(sweep.state)), Text(states)]
    if left is not None and sweep.state in ("queued", "running"):
        words.append(Text(left_text(left), style="cyan"))
    return words


def left_text(left: Span) -> str:
    """`1m 40s – 2m 10s left`."""
    return f"{span(left.low_s, left.high_s)} left"


def best_line(run: Run, objective: Objective) -> Text:
    """`best so far: em 45.5%, run 4 lr1e-3-g8`."""
    value = metric(objective.metric, run.value)
    return Text(f"best so far: {objective.metric} {value}, run {run.id} {run.name}", style="green")


def runs_table(
    runs: Sequence[Run], view: Overview, width: int, curve: Callable[[Run], str] | None = None
) -> Table:
    """Runs with state and progress, in as many columns as `width` has room for.

    `curve` draws the reward of a run, in a column of its own.
    """
    drawn = curve is not None and width >= _CURVE_FROM
    columns = _columns(width, drawn)
    if curve is not None and drawn:
        columns.append(_Column("reward so far", 0, lambda run, now: Text(curve(run), "green")))
    table = plain_table(*(c.head for c in columns), right=(c.head for c in columns if c.right))
    table.columns[1].no_wrap = False
    for run in runs:
        now = view.progress[run.id]
        table.add_row(*(column.cell(run, now) for column in columns))
    return table


def runs_lines(runs: Sequence[Run], view: Overview, width: int) -> Iterator[str]:
    """As `runs_table` for very many runs: plain text, a thousand times sooner."""
    columns = _columns(width, drawn=False)
    rows = [[c.head for c in columns]]
    rows += [[_plain(c.cell(run, view.progress[run.id])) for c in columns] for run in runs]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _plain(cell: str | Text) -> str:
    return cell if isinstance(cell, str) else cell.plain


def _columns(width: int, drawn: bool) -> "list[_Column]":
    # Where a curve takes its room, the bar, which says the least, needs a wider terminal.
    room = width - _CURVE_ROOM if drawn else width
    return [c for c in _COLUMNS if (room if c.head == "progress" else width) >= c.least]


@dataclass(frozen=True)
class _Column:
    """A column of the runs, shown in terminals that are at least so wide."""

    head: str
    least: int
    cell: Callable[[Run, Progress], str | Text]
    right: bool = False


# Below this a drawn curve takes room that the run's name needs.
_CURVE_FROM = 78
_CURVE_ROOM = 25
_COLUMNS = (
    _Column("id", 0, lambda run, now: str(run.id), right=True),
    _Column("run", 0, lambda run, now: run.name),
    _Column("state", 0, lambda run, now: Text(state_word(run), style=STATE_STYLES[run.state])),
    _Column("progress", 100, lambda run, now: _progress_bar(run, now)),
    _Column("update", 0, lambda run, now: updates_text(now), right=True),
    _Column("reward", 0, lambda run, now: number(now.metrics.get("reward_mean")), right=True),
    _Column("em", 0, lambda run, now: percent(now.metrics.get("em")), right=True),
    _Column("time", 70, lambda run, now: duration(run.wall_s or None), right=True),
    _Column("tokens/s", 120, lambda run, now: _rate(now.metrics.get("tokens_per_s")), right=True),
    _Column("peak", 100, lambda run, now: size(now.metrics.get("peak_bytes")), right=True),
)


def _rate(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else UNKNOWN


def state_word(run: Run) -> str:
    """The state; a wish that the worker has not met yet goes with it."""
    words = {"cancel": "cancelling", "pause": "pausing"}
    return words.get(run.request or "", str(run.state))


def _progress_bar(run: Run, now: Progress) -> Text:
    share = (now.update or 0) / now.updates_total if now.updates_total else 0.0
    return Text(bar(share, 20), style=STATE_STYLES[run.state])
