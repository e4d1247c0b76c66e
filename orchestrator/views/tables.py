"""Tables for the terminal: plans, status, rankings, fields; from records to rich renderables."""

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from grpo_core.config import FIELDS, GROUPS, FieldInfo, format_value
from orchestrator.leaderboard import Row, differing_keys
from orchestrator.naming import SHORT_NAMES
from orchestrator.run import Objective, Plan, Progress, Run, RunState, Sweep
from orchestrator.views.facts import Overview
from orchestrator.views.text import (
    UNKNOWN,
    bar,
    counts,
    duration,
    metric,
    number,
    percent,
    setting_value,
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


def _table(*columns: str, right: Iterable[str] = ()) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    rights = set(right)
    for column in columns:
        justify: Any = "right" if column in rights else "left"
        table.add_column(column, justify=justify, no_wrap=True, overflow="ellipsis")
    return table


# --- submit


def plan_table(plan: Plan, differing: Sequence[str]) -> Table:
    """The planned runs with what differs between them."""
    keys = [key for key in differing if key != "seed"]
    heads = [SHORT_NAMES.get(key, key) if len(keys) > 4 else key for key in keys]
    table = _table("#", "run", *heads, "seed", "tags", right=("#", "seed", *heads))
    for position, run in enumerate(plan.runs, start=1):
        values = [
            setting_value(run.overrides[key]) if key in run.overrides else UNKNOWN for key in keys
        ]
        table.add_row(str(position), run.name, *values, str(run.seed), ", ".join(run.tags))
    return table


# --- status


def sweep_line(sweep: Sweep, eta_s: float | None) -> Text:
    """`demo · running · 2 completed, 1 running, 3 queued · about 1m 40s left`."""
    line = Text.assemble((sweep.name, "bold"), f" · {sweep.state} · {counts(sweep.counts)}")
    if eta_s is not None and sweep.state in ("queued", "running"):
        line.append(f" · about {duration(eta_s)} left", style="cyan")
    if sweep.paused and sweep.reason:
        line.append(f" · {sweep.reason}", style="yellow")
    return line


def runs_table(runs: Sequence[Run], view: Overview, wide: bool) -> Table:
    """Runs with state and progress; with `wide` also a bar and the peak of memory."""
    columns = ["id", "run", "state", *(["progress"] if wide else []), "update", "reward", "em"]
    columns += ["time", *(["peak"] if wide else [])]
    table = _table(*columns, right=("id", "update", "reward", "em", "time", "peak"))
    for run in runs:
        now = view.progress[run.id]
        state = Text(state_word(run), style=STATE_STYLES[run.state])
        cells: list[str | Text] = [str(run.id), run.name, state]
        cells += [_progress_bar(run, now)] if wide else []
        cells += [updates_text(now), number(now.metrics.get("reward_mean"))]
        cells += [percent(now.metrics.get("em")), duration(run.wall_s or None)]
        cells += [_gigabytes(now.metrics.get("peak_bytes"))] if wide else []
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


def _gigabytes(value: Any) -> str:
    return f"{value / 1e9:.1f} GB" if isinstance(value, int | float) else UNKNOWN


# --- best


def best_table(rows: Sequence[Row], objective: Objective) -> Table:
    """The ranking; only the keys that differ between settings have a column."""
    keys = differing_keys(row.params for row in rows)
    table = _table(
        "rank", *keys, objective.metric, "95% interval", "n", "runs", right=("rank", "n", *keys)
    )
    for row in rows:
        values = [setting_value(row.params[key]) if key in row.params else UNKNOWN for key in keys]
        table.add_row(
            str(row.rank),
            *values,
            metric(objective.metric, row.mean),
            _interval(row, objective),
            str(row.n),
            ", ".join(str(score.run.id) for score in row.scores),
        )
    return table


def _interval(row: Row, objective: Objective) -> str:
    if row.ci95 is None:
        return "n=1, no interval"
    low, high = (metric(objective.metric, value) for value in row.ci95)
    return f"{low} … {high}"


# --- fields


def fields_table(names: Sequence[str]) -> Table:
    """Config fields by group."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("field", no_wrap=True)
    table.add_column("default", overflow="ellipsis", max_width=28, no_wrap=True)
    table.add_column("meaning")
    for group in GROUPS:
        members = [info for info in FIELDS.values() if info.group == group and info.name in names]
        if members:
            table.add_row(Text(group, style="bold cyan"), "", "")
        for info in members:
            table.add_row(f"  {info.name}", format_value(info.default), _meaning(info))
    return table


def _meaning(info: FieldInfo) -> str:
    more = [info.allowed, f"in {info.unit}" if info.unit else ""]
    extra = "; ".join(word for word in more if word)
    return f"{info.help} ({extra})" if extra else info.help


def field_shape(info: FieldInfo) -> dict[str, Any]:
    """A field in `fields --json`."""
    return {
        "name": info.name,
        "type": info.type,
        "default": info.default,
        "group": info.group,
        "help": info.help,
        "unit": info.unit or None,
        "choices": list(info.choices) or None,
        "allowed": info.allowed or None,
    }
