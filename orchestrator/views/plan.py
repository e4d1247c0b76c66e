"""What a submit would queue, or has queued, as a table and in words."""

import shlex
from collections.abc import Mapping, Sequence

from rich.table import Table

from orchestrator.plan.expand import Expansion
from orchestrator.plan.forecast import Forecast
from orchestrator.run import Plan, PlannedRun
from orchestrator.text import SHORT_NAMES, UNKNOWN, duration, plural, setting_value, size
from orchestrator.views.tables import plain_table


def plan_table(plan: Plan, differing: Sequence[str]) -> Table:
    """The planned runs with what differs between them."""
    keys = [key for key in differing if key != "seed"]
    heads = [SHORT_NAMES.get(key, key) if len(keys) > 4 else key for key in keys]
    table = plain_table("#", "run", *heads, "seed", "tags", right=("#", "seed", *heads))
    for position, run in enumerate(plan.runs, start=1):
        values = [
            setting_value(run.overrides[key]) if key in run.overrides else UNKNOWN for key in keys
        ]
        table.add_row(str(position), run.name, *values, str(run.seed), ", ".join(run.tags))
    return table


def set_line(plan: Plan, run: PlannedRun) -> str:
    """The command that trains a run by hand, as a shell takes it."""
    words = ["mlx-grpo", "--config", plan.config_source]
    for item in run.set:
        words += ["--set", item]
    return shlex.join(words)


def expansion_text(expansion: Expansion) -> str:
    """`8 runs = 4 settings × 2 seeds; 1 equal setting merged`."""
    settings, seeds = len(expansion.settings), len(expansion.spec.seeds)
    words = plural(settings * max(1, seeds), "run")
    if seeds > 1:
        words += f" = {plural(settings, 'setting')} × {seeds} seeds"
    if expansion.size:
        words += f"; the first of {expansion.size:,} combinations"
    if expansion.to_ask:
        more = plural(expansion.to_ask, "setting")
        words += f"; {more} more to be chosen by {expansion.spec.search.method} as results come"
    for rule, count in expansion.dropped.items():
        what = "setting" if expansion.spec.search.method == "grid" else "draw"
        words += f"; {plural(count, what)} dropped by {rule}"
    if expansion.merged:
        words += f"; {plural(expansion.merged, 'equal setting')} merged"
    if expansion.shortfall:
        words += f"; fewer than search.runs: {expansion.shortfall}"
    return words


def forecast_text(found: Forecast) -> str:
    """`about 2h 10m and 1.2 GB, going by past runs`, as far as there are any."""
    time = "unknown" if found.time_s is None else f"about {duration(found.time_s)}"
    disk = "unknown" if found.disk_bytes is None else f"about {size(found.disk_bytes)}"
    if found.time_s is None and found.disk_bytes is None:
        return "time and disk unknown: no run of this model and shape has completed yet"
    return f"time {time}, disk {disk}, going by past runs of the same model and shape"


def recognised_text(found: Mapping[str, int]) -> str:
    """`3 done, 1 running, 8 new`; empty where nothing was recognised."""
    return ", ".join(f"{n} {word}" for word, n in found.items())
