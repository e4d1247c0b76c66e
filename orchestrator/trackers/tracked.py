"""A run as the tools outside get it: who it is, its config, and what it logged, point by point.

Only files and the queue's record are read, never the trainer. What a tool is given is the same
however often, and by whichever process, it is sent: so what it has already is told by the update
alone (`Tracker.known`).
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from orchestrator.results.training_log import NOT_MEASURED, Line, LogTail, logged_seconds
from orchestrator.run import END_STATES, Run, Sweep
from orchestrator.system.paths import RunPaths


@dataclass(frozen=True)
class Point:
    """Everything that was logged at one update; `at` is its time in seconds since 1970."""

    update: int
    values: Mapping[str, float]
    at: float


@dataclass(frozen=True)
class Tracked:
    """A run with what a tool shows beside its curves.

    `key` is the same for every export of this run, and another for a run of another queue.
    """

    run: Run
    sweep: Sweep
    key: str

    @classmethod
    def of(cls, run: Run, sweep: Sweep) -> "Tracked":
        """The run of a sweep."""
        identity = f"{sweep.created}\0{sweep.name}\0{run.id}\0{run.created}"
        return cls(run, sweep, hashlib.sha256(identity.encode()).hexdigest()[:16])

    @property
    def ended(self) -> bool:
        """Whether nothing more will be logged, unless somebody queues it again."""
        return self.run.state in END_STATES

    @property
    def tags(self) -> list[str]:
        """The tags of the run, and the sweep's name as one."""
        return list(dict.fromkeys((*self.run.tags, self.sweep.name)))

    @property
    def began(self) -> float:
        """When it started, in seconds since 1970."""
        return datetime.fromisoformat(self.run.started or self.run.created).timestamp()

    def config(self) -> dict[str, Any]:
        """Every field as the trainer resolved it; before it has, what the sweep sets."""
        try:
            found = json.loads(RunPaths(self.run.folder).resolved_config.read_bytes())
        except (OSError, ValueError):
            found = None
        fields = found if isinstance(found, dict) else {**self.run.overrides, "seed": self.run.seed}
        return {**fields, "grpo_sweep": self._reference()}

    def _reference(self) -> dict[str, Any]:
        """Where to find it again in the queue, and its weights."""
        return {
            "sweep": self.sweep.name,
            "run": self.run.id,
            "name": self.run.name,
            "overrides": self.run.overrides,
            "weights": str(RunPaths(self.run.folder).final),
            "objective": self.sweep.objective.metric,
        }

    def summary(self) -> dict[str, Any]:
        """How it stands: state, reason and the value of the objective, what is unknown left out."""
        found = {
            "state": str(self.run.state),
            "reason": self.run.reason,
            "objective": self.run.value,
        }
        return {name: value for name, value in found.items() if value is not None}


class Session(Protocol):
    """A run that a tool has open."""

    def metrics(self, points: Sequence[Point]) -> None:
        """Take what was logged, in the order of the updates; kept when this returns."""

    def finish(self, run: Tracked) -> None:
        """Close it as what the run has become: ended, or interrupted for a while."""


@dataclass(frozen=True)
class Known:
    """What a tool has of a run: all up to an update (-1: no update), and how the run stood."""

    update: int
    state: str


class Tracker(Protocol):
    """A tool that takes runs: TensorBoard, W&B, MLflow, trackio.

    Whatever goes wrong in the tool comes as the tool's own exception.
    """

    where: str
    """How to see what it got, for a person."""

    def known(self, run: Tracked) -> Known | None:
        """What the tool has of a run; None where it does not know it."""

    def start(self, run: Tracked) -> Session:
        """Begin a run, or go on with it."""


def metric_names(line: Line) -> dict[str, float]:
    """The measures of a line of the log, under the names that these tools group by.

    `train/loss`, `eval/em`, `eval/reward`; an evaluation on training rows is `train/em`.
    """
    held_out = line.get("split") == "test"
    found = {}
    for key, value in line.items():
        if key in NOT_MEASURED or isinstance(value, bool) or not isinstance(value, int | float):
            continue
        try:
            number = float(value)
        except OverflowError:  # JSON knows no largest integer.
            continue
        found[f"eval/{key.removeprefix('eval_')}" if held_out else f"train/{key}"] = number
    return found


class PointReader:
    """Follows the log of one run; each `read` costs only what was written since the last."""

    def __init__(self, run: Tracked) -> None:
        self._log = LogTail(run.run.folder)
        self._began = run.began
        self._restart()

    def _restart(self) -> None:
        self._restarts = self._log.restarts
        self._open: Point | None = None
        self._seconds = 0.0

    def read(self, ended: bool) -> list[Point]:
        """The points since the last look; of a log that began anew all of them again.

        The last update's point is given once another one begins, or the run has `ended`: an
        evaluation may still belong to it.
        """
        lines = self._log.read()
        if self._log.restarts != self._restarts:
            self._restart()
        found = list(self._points(lines))
        if ended and self._open is not None:
            found.append(self._open)
            self._open = None
        return found

    def _points(self, lines: Iterable[Line]) -> Iterable[Point]:
        for line in lines:
            update = line.get("update")
            if not isinstance(update, int):
                continue
            self._seconds += logged_seconds(line)
            at, values = self._began + self._seconds, metric_names(line)
            if self._open is not None and self._open.update == update:
                values = {**self._open.values, **values}
            elif self._open is not None:
                yield self._open
            self._open = Point(update, values, at)
