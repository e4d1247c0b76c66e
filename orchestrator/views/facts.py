"""What is true now about runs and sweeps: progress from their folders, time that is left.

Reads the store's records and the training logs; writes nothing. How it looks is decided in
`tables.py` and `live.py`, what programs get in `shapes.py`.
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.paths import RunPaths
from orchestrator.progress import read_progress
from orchestrator.run import END_STATES, Progress, Run, RunState, Share, Sweep

if TYPE_CHECKING:
    from orchestrator.store import Store


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
class Facts:
    """What the store tells about a sweep: the `runs` to show, all of them counted in `shares`.

    `begun` are its unfinished runs that have been started before.
    """

    sweep: Sweep
    runs: Sequence[Run]
    shares: Sequence[Share]
    begun: Sequence[Run]


@dataclass(frozen=True)
class Overview:
    """Sweeps with runs to show, how far those are, and the seconds until each sweep is done."""

    sweeps: tuple[Sweep, ...]
    runs: Mapping[int, tuple[Run, ...]]
    progress: Mapping[int, Progress]
    eta_s: Mapping[int, float | None]


def gather(store: "Store", sweeps: Sequence[Sweep], most: int | None = 0) -> Overview:
    """An overview with at most so many runs of each sweep (None: all), the most telling ones.

    Reads no more runs than it shows, and those that have begun: a queue may hold very many.
    """
    return overview([_facts(store, sweep, most) for sweep in sweeps])


def _facts(store: "Store", sweep: Sweep, most: int | None) -> Facts:
    shown = store.runs(sweep.id) if most is None else store.telling(sweep.id, most)
    return Facts(sweep, shown, store.shares(sweep.id), store.begun(sweep.id))


def overview(facts: Sequence[Facts]) -> Overview:
    """Everything that a status shows about some sweeps, in the order in which they run."""
    known = {run.id: run for of in facts for run in (*of.runs, *of.begun)}
    progress = {run_id: progress_of(run) for run_id, run in known.items()}
    ahead: float | None = 0.0
    eta: dict[int, float | None] = {}
    for of in facts:
        left = remaining_s(of, progress)
        if of.sweep.state in ("queued", "running"):
            ahead = None if ahead is None or left is None else ahead + left
            eta[of.sweep.id] = ahead
        else:
            eta[of.sweep.id] = None
    shown = {of.sweep.id: tuple(of.runs) for of in facts}
    return Overview(tuple(of.sweep for of in facts), shown, progress, eta)


def remaining_s(facts: Facts, progress: Mapping[int, Progress]) -> float | None:
    """The seconds that the unfinished runs of a sweep will take; None where nothing tells."""
    costs = _Costs(facts, progress)
    left = [_left_s(run, progress[run.id], costs) for run in facts.begun]
    for kind, n in _untouched(facts).items():
        cost = costs.of(kind)
        left.append(None if cost is None else n * cost)
    if any(value is None for value in left):
        return None
    return math.fsum(value for value in left if value is not None)


def _untouched(facts: Facts) -> Counter[str]:
    """How many runs of each kind are to be trained from their beginning."""
    waiting: Counter[str] = Counter()
    for share in facts.shares:
        if share.state not in END_STATES:
            waiting[share.kind] += share.n
    waiting.subtract(run.kind for run in facts.begun)
    return +waiting


class _Costs:
    """The seconds that a whole run takes, by kind: measured to the end, or projected."""

    def __init__(self, facts: Facts, progress: Mapping[int, Progress]) -> None:
        self._measured: Counter[str] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        for share in facts.shares:
            if share.state is RunState.COMPLETED and share.timed:
                self._measured[share.kind] += share.timed
                self._seconds[share.kind] += share.wall_s
        self._projected: dict[str, list[float]] = defaultdict(list)
        for run in facts.begun:
            now = progress[run.id]
            if run.state is RunState.RUNNING and now.s_per_update and now.updates_total:
                self._projected[run.kind].append(now.s_per_update * now.updates_total)

    def of(self, kind: str) -> float | None:
        """The seconds that a run takes, from the likest runs there are."""
        if kind in self._measured:
            return self._seconds[kind] / self._measured[kind]
        if kind in self._projected:
            return _mean(self._projected[kind])
        if self._measured:
            return math.fsum(self._seconds.values()) / self._measured.total()
        every = [cost for costs in self._projected.values() for cost in costs]
        return _mean(every) if every else None


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _left_s(run: Run, now: Progress, costs: _Costs) -> float | None:
    done, total = now.update or 0, now.updates_total
    if now.s_per_update and total:
        return now.s_per_update * max(0, total - done)
    cost = costs.of(run.kind)
    if cost is None:
        return None
    return cost * (1.0 - done / total if total else 1.0)
