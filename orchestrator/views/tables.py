"""The status in a terminal: sweeps, runs and how far they are, as rich renderables."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from orchestrator.run import Progress, Run, RunState, Sweep
from orchestrator.views.facts import Overview
from orchestrator.views.text import (
    UNKNOWN,
    bar,
    counts,
    duration,
    number,
    percent,
    plural,
    size,
)

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


def sweep_line(sweep: Sweep, eta_s: float | None) -> Text:
    """`demo · running · 2 completed, 1 running, 3 queued · about 1m 40s left`."""
    line = Text.assemble((sweep.name, "bold"), f" · {sweep.state} · {counts(sweep.counts)}")
    if sweep.to_ask:
        line.append(f", {plural(sweep.to_ask, 'setting')} to be chosen")
    if eta_s is not None and sweep.state in ("queued", "running"):
        line.append(f" · about {duration(eta_s)} left", style="cyan")
    if sweep.paused and sweep.reason:
        line.append(f" · {sweep.reason}", style="yellow")
    return line


def runs_table(runs: Sequence[Run], view: Overview, wide: bool) -> Table:
    """Runs with state and progress; with `wide` also a bar and the peak of memory."""
    columns = ["id", "run", "state", *(["progress"] if wide else []), "update", "reward", "em"]
    columns += ["time", *(["peak"] if wide else [])]
    table = plain_table(*columns, right=("id", "update", "reward", "em", "time", "peak"))
    for run in runs:
        now = view.progress[run.id]
        state = Text(state_word(run), style=STATE_STYLES[run.state])
        cells: list[str | Text] = [str(run.id), run.name, state]
        cells += [_progress_bar(run, now)] if wide else []
        cells += [updates_text(now), number(now.metrics.get("reward_mean"))]
        cells += [percent(now.metrics.get("em")), duration(run.wall_s or None)]
        cells += [size(now.metrics.get("peak_bytes"))] if wide else []
        table.add_row(*cells)
    return table


def state_word(run: Run) -> str:
    """The state; a wish that the worker has not met yet goes with it."""
    words = {"cancel": "cancelling", "pause": "pausing"}
    return words.get(run.request or "", str(run.state))


def updates_text(now: Progress) -> str:
    """`14/30`, as far as it is known."""
    if now.update is None:
        return UNKNOWN
    return f"{now.update}/{now.updates_total}" if now.updates_total else str(now.update)


def _progress_bar(run: Run, now: Progress) -> Text:
    share = (now.update or 0) / now.updates_total if now.updates_total else 0.0
    return Text(bar(share, 20), style=STATE_STYLES[run.state])
