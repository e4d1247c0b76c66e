"""The status in a terminal: sweeps, runs and how far they are, as rich renderables."""

import io
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from orchestrator.names import cut_middle
from orchestrator.queue.eta import Span
from orchestrator.results.training_log import held_out_metric
from orchestrator.run import Objective, Progress, Run, RunState, Sweep
from orchestrator.text import (
    SHORT_NAMES,
    UNKNOWN,
    bar,
    counts,
    duration,
    metric,
    number,
    plural,
    setting_value,
    size,
    span,
    three_digits,
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
    runs: Sequence[Run],
    view: Overview,
    width: int,
    curve: Callable[[Run], str] | None = None,
    swept: Sequence[str] = (),
    ill: Container[int] = (),
) -> Table:
    """Runs with state, what is `swept` and progress, in as many columns as `width` has room for.

    `curve` draws the reward of a run, in a column of its own; the states of `ill` runs get a mark.
    """

    def state(run: Run, _: Progress) -> Text:
        mark = (" !", "yellow") if run.id in ill else ""
        return Text.assemble((state_word(run), STATE_STYLES[run.state]), mark)

    columns = [
        replace(column, cell=state) if column.head == "state" else column
        for column in _columns(runs, view, width, swept, curve)
    ]
    table = plain_table(*(c.head for c in columns), right=(c.head for c in columns if c.right))
    table.columns[1].no_wrap = False
    for run in runs:
        now = view.progress[run.id]
        table.add_row(*(column.cell(run, now) for column in columns))
    return table


def runs_lines(
    runs: Sequence[Run], view: Overview, width: int, swept: Sequence[str] = ()
) -> Iterator[str]:
    """As `runs_table` for very many runs: plain text, a thousand times sooner."""
    columns = _columns(runs, view, width, swept)
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


@dataclass(frozen=True)
class _Column:
    """A column of the runs, shown in terminals that are at least so wide."""

    head: str
    least: int
    cell: Callable[[Run, Progress], str | Text]
    right: bool = False


def _columns(
    runs: Sequence[Run],
    view: Overview,
    width: int,
    swept: Sequence[str],
    curve: Callable[[Run], str] | None = None,
) -> list[_Column]:
    """The columns that have room; what is swept goes before what is nice to know."""
    parameters = [_parameter(key) for key in with_room(runs, view, width, swept)]
    room = width - sum(_width(column, runs, view) for column in parameters)
    drawn = curve is not None and room >= _CURVE_FROM
    # Where a curve takes its room, the bar, which says the least, needs a wider terminal.
    bar_room = room - _CURVE_ROOM if drawn else room
    columns = [c for c in _COLUMNS if (bar_room if c.head == "progress" else room) >= c.least]
    columns[2:2] = parameters
    if curve is not None and drawn:
        columns.append(_Column("reward so far", 0, lambda run, now: Text(curve(run), "green")))
    return columns


def with_room(runs: Sequence[Run], view: Overview, width: int, swept: Sequence[str]) -> list[str]:
    """Those of the swept parameters for which the table of these runs has a column."""
    taken = sum(_width(column, runs, view) for column in _COLUMNS if not column.least)
    taken -= max(0, max((len(run.name) for run in runs), default=0) - _LEAST_NAME)
    found = []
    for key in swept:
        wanted = _width(_parameter(key), runs, view)
        if taken + wanted <= width:
            found.append(key)
            taken += wanted
    return found


def natural_width(table: Table) -> int:
    """The columns of a terminal that a table wants, so that nothing of it is cut."""
    # As `cli.output.console`: what users write is no markup here either.
    wide = Console(width=10_000, file=io.StringIO(), markup=False, emoji=False, highlight=False)
    return wide.measure(table).maximum


def left_out_line(left_out: Sequence[str]) -> Text:
    """That parameters which differ have no column."""
    words = f"no room for {', '.join(left_out)}: a wider terminal, or --json, shows it all"
    return Text(words, style="dim")


def _width(column: _Column, runs: Sequence[Run], view: Overview) -> int:
    """What a column takes of a line, with the two blanks behind it."""
    cells = (_plain(column.cell(run, view.progress[run.id])) for run in runs)
    return max([len(column.head), *map(cell_len, cells)]) + 2


def _parameter(key: str) -> _Column:
    def cell(run: Run, now: Progress) -> str:
        return value_cell(run.overrides[key]) if key in run.overrides else UNKNOWN

    return _Column(SHORT_NAMES.get(key, key), 0, cell, right=True)


def value_cell(value: Any) -> str:
    """A value of a parameter in a column: three digits of a number, both ends of a long text."""
    value = three_digits(value)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        value = "+".join(value)
    return cut_middle(setting_value(value).replace("\n", " "), _VALUE_SIZE)


# From this length on the name of a run is cut for the sake of what it was trained with.
_LEAST_NAME = 16
_VALUE_SIZE = 20
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
    _Column("score", 0, lambda run, now: _score(now.metrics), right=True),
    _Column("time", 70, lambda run, now: duration(run.wall_s or None), right=True),
    _Column("tokens/s", 120, lambda run, now: _rate(now.metrics.get("tokens_per_s")), right=True),
    _Column("peak", 100, lambda run, now: size(now.metrics.get("peak_bytes")), right=True),
)


def _score(metrics: Mapping[str, Any]) -> str:
    """Exact match in percent, or where there is none the held-out reward."""
    name = held_out_metric(metrics)
    return metric(name, metrics.get(name))


def _rate(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else UNKNOWN


def state_word(run: Run) -> str:
    """The state; a wish that the worker has not met yet goes with it."""
    words = {"cancel": "cancelling", "pause": "pausing"}
    return words.get(run.request or "", str(run.state))


def _progress_bar(run: Run, now: Progress) -> Text:
    share = (now.update or 0) / now.updates_total if now.updates_total else 0.0
    return Text(bar(share, 20), style=STATE_STYLES[run.state])
