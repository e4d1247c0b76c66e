"""What is true now about runs and sweeps: progress from their folders, time that is left.

Reads the store's records and the training logs; writes nothing. How it looks is decided in
`tables.py` and `live.py`, what programs get in `shapes.py`.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.paths import RunPaths
from orchestrator.progress import read_progress
from orchestrator.run import END_STATES, Progress, Run, RunState, Sweep

# What decides how long a run takes; runs that share these take about as long.
_COST_KEYS = (
    "model_name",
    "train_type",
    "dataset",
    "batch_size",
    "gradient_accumulation_steps",
    "num_epochs",
    "max_train_samples",
    "num_generations",
    "num_iterations",
    "max_new_tokens",
    "max_completion_length",
    "kl_coeff",
)


def progress_of(run: Run) -> Progress:
    """How far a run is: from its log while it runs, else as recorded at its last end."""
    recorded = Progress(run.update, run.updates_total, run.metrics)
    if run.state is not RunState.RUNNING:
        return recorded
    now = read_progress(run.folder)
    return now if now.update is not None else recorded


def curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(update, value) of a metric in logged order; `em` and the like of held-out rows only."""
    points = []
    for line in _log_lines(RunPaths(folder).log):
        value = line.get(metric)
        if line.get("split", "test") == "test" and isinstance(value, int | float):
            points.append((int(line.get("update") or 0), float(value)))
    return points


def _log_lines(path: Path) -> Iterable[dict[str, Any]]:
    """The whole lines of a training log; a torn or foreign one is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return
    for raw in text.splitlines():
        try:
            line = json.loads(raw)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


# --- time that is left


@dataclass(frozen=True)
class Overview:
    """Sweeps with their runs, how far those are, and the seconds until each sweep is done."""

    sweeps: tuple[Sweep, ...]
    runs: Mapping[int, tuple[Run, ...]]
    progress: Mapping[int, Progress]
    eta_s: Mapping[int, float | None]


def overview(sweeps: Sequence[Sweep], runs: Mapping[int, Sequence[Run]]) -> Overview:
    """Everything that a status shows about some sweeps, in the order in which they run."""
    progress = {run.id: progress_of(run) for of in runs.values() for run in of}
    ahead: float | None = 0.0
    eta: dict[int, float | None] = {}
    for sweep in sweeps:
        left = remaining_s(runs[sweep.id], progress)
        if sweep.state in ("queued", "running"):
            ahead = None if ahead is None or left is None else ahead + left
            eta[sweep.id] = ahead
        else:
            eta[sweep.id] = None
    return Overview(tuple(sweeps), {key: tuple(of) for key, of in runs.items()}, progress, eta)


def remaining_s(runs: Sequence[Run], progress: Mapping[int, Progress]) -> float | None:
    """The seconds that the unfinished runs of a sweep will take; None where nothing tells."""
    known = _known_costs(runs, progress)
    left = [_left_s(run, progress[run.id], known) for run in runs if run.state not in END_STATES]
    if any(value is None for value in left):
        return None
    return math.fsum(value for value in left if value is not None)


_Cost = tuple[tuple[str, ...], float]


@dataclass(frozen=True)
class _Costs:
    """(what the cost depends on, seconds for a whole run): measured to the end, or projected."""

    measured: tuple[_Cost, ...]
    projected: tuple[_Cost, ...]

    def of(self, key: tuple[str, ...]) -> float | None:
        """The seconds that a run takes, from the likest runs there are."""
        for costs in (self.measured, self.projected):
            same = [cost for of, cost in costs if of == key]
            if same:
                return math.fsum(same) / len(same)
        found = [cost for _, cost in self.measured or self.projected]
        return math.fsum(found) / len(found) if found else None


def _known_costs(runs: Sequence[Run], progress: Mapping[int, Progress]) -> _Costs:
    measured = tuple(
        (_cost_key(run), run.wall_s)
        for run in runs
        if run.state is RunState.COMPLETED and run.wall_s > 0
    )
    projected = []
    for run in runs:
        now = progress[run.id]
        if run.state is RunState.RUNNING and now.s_per_update and now.updates_total:
            projected.append((_cost_key(run), now.s_per_update * now.updates_total))
    return _Costs(measured, tuple(projected))


def _cost_key(run: Run) -> tuple[str, ...]:
    return tuple(json.dumps(run.overrides.get(key)) for key in _COST_KEYS)


def _left_s(run: Run, now: Progress, known: _Costs) -> float | None:
    done, total = now.update or 0, now.updates_total
    if now.s_per_update and total:
        return now.s_per_update * max(0, total - done)
    cost = known.of(_cost_key(run))
    if cost is None:
        return None
    return cost * (1.0 - done / total if total else 1.0)
