"""What `submit` says before anything is queued: the probe's result, time and disk."""

import os
from typing import TYPE_CHECKING

from orchestrator.cli.common import say

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.plan.expand import Expansion
    from orchestrator.plan.forecast import Forecast
    from orchestrator.queue.store import Store
    from orchestrator.run import Plan, Run, Sweep

# Past runs that are looked at: the latest sweeps tell what the machine does now.
_SWEEPS = 20
_RUNS = 200


def check_heaviest(expansion: "Expansion") -> None:
    """Train one update of the setting that needs the most memory; SweepError where that fails."""
    from orchestrator.text import duration, settings, size
    from orchestrator.worker.probe import check, heaviest

    for setting in heaviest(expansion.spec, expansion.settings):
        words = settings(setting.overrides) or "the base as it is"
        say(f"check: one update of what needs the most memory: {words}")
        seen = check(expansion.spec, setting, os.getcwd())
        length = seen.completion_tokens
        tokens = "" if length is None else f", completions of {length:.0f} tokens on average"
        say(
            f"check: peak {size(seen.peak_bytes)}, {seen.update_s:.1f} s an update{tokens}; "
            f"with loading {duration(seen.wall_s)}"
        )


def forecast_of(store: "Store", plan: "Plan") -> "Forecast":
    """Time and disk of a plan, from the latest completed runs of the queue."""
    from orchestrator.plan.forecast import forecast

    return forecast(plan, _past(store))


def _past(store: "Store") -> "Iterator[tuple[Run, Sweep]]":
    from orchestrator.run import RunState

    for sweep in reversed(store.queries.sweeps(latest=_SWEEPS)):
        for run in store.queries.runs(sweep.id, [RunState.COMPLETED], limit=_RUNS):
            yield run, sweep


def forecast_words(found: "Forecast") -> str:
    """`about 2h 10m and 1.2 GB, going by past runs`, as far as there are any."""
    from orchestrator.text import duration, size

    time = "unknown" if found.time_s is None else f"about {duration(found.time_s)}"
    disk = "unknown" if found.disk_bytes is None else f"about {size(found.disk_bytes)}"
    if found.time_s is None and found.disk_bytes is None:
        return "time and disk unknown: no run of this model and shape has completed yet"
    return f"time {time}, disk {disk}, going by past runs of the same model and shape"
