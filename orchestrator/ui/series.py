"""Everything that runs have logged, metric by metric, read once and then only what is new.

A curve is thinned before it leaves: a screen shows no more points than `POINTS`.
"""

import bisect
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from orchestrator.results.curves import thin
from orchestrator.results.training_log import LogTail, finite_number, is_held_out, logged_seconds

POINTS = 400
# Of more runs than this the oldest are read again when they are asked for.
_KEPT = 400
# What a line says besides measures.
_NOT_MEASURED = frozenset({"update", "batch_step", "updates_total", "n", "split", "ci95"})


@dataclass
class _Metric:
    """The points of one metric; `lines` are the numbers of the lines that they came from."""

    updates: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))
    lines: "array[int]" = field(default_factory=lambda: array("q"))


@dataclass(frozen=True)
class Points:
    """A curve for the browser: `t` are the seconds trained at each point."""

    x: list[float]
    y: list[float]
    t: list[float]

    def shape(self) -> dict[str, list[float]]:
        """As JSON."""
        return {"x": self.x, "y": self.y, "t": self.t}


class RunSeries:
    """What one run has logged so far."""

    def __init__(self, folder: Path) -> None:
        self._log = LogTail(folder)
        self._begin()

    def _begin(self) -> None:
        self.epoch = self._log.restarts
        self.lines = 0
        self._metrics: dict[str, _Metric] = {}
        self._updates: array[int] = array("q")
        self._seconds: array[float] = array("d")

    def refresh(self) -> None:
        """Read what is new."""
        lines = self._log.read()
        if self._log.restarts != self.epoch:
            self._begin()
        for line in lines:
            self.lines += 1
            self._take(line)

    def _take(self, line: dict[str, Any]) -> None:
        update = line.get("update")
        if not isinstance(update, int):
            return
        spent = self._seconds[-1] if self._seconds else 0.0
        self._updates.append(update)
        self._seconds.append(spent + logged_seconds(line))
        if not is_held_out(line):
            return
        for name, raw in line.items():
            value = None if name in _NOT_MEASURED else finite_number(raw)
            if value is not None:
                metric = self._metrics.setdefault(name, _Metric())
                metric.updates.append(update)
                metric.values.append(value)
                metric.lines.append(self.lines)

    @property
    def names(self) -> list[str]:
        """The metrics that were logged."""
        return list(self._metrics)

    def first(self, name: str) -> float | None:
        """The value before the first update, if it was measured."""
        metric = self._metrics.get(name)
        return metric.values[0] if metric and metric.updates[0] == 0 else None

    def thinned(self, name: str) -> Points:
        """The whole curve of a metric, about `POINTS` points of it."""
        metric = self._metrics.get(name, _Metric())
        found = thin([list(zip(metric.updates, metric.values, strict=True))], POINTS)
        xs = [found.middle(number) for number in sorted(found.runs[0])]
        ys = [found.runs[0][number] for number in sorted(found.runs[0])]
        return Points(xs, _rounded(ys), [self._seconds_at(x) for x in xs])

    def since(self, name: str, line: int) -> Points:
        """The points of a metric after a line of the log."""
        metric = self._metrics.get(name, _Metric())
        at = bisect.bisect_right(metric.lines, line)
        xs = [float(update) for update in metric.updates[at:]]
        return Points(xs, _rounded(metric.values[at:]), [self._seconds_at(x) for x in xs])

    def _seconds_at(self, update: float) -> float:
        at = bisect.bisect_right(self._updates, update) - 1
        return round(self._seconds[max(0, at)], 1) if self._seconds else 0.0


def _rounded(values: Any) -> list[float]:
    """To six digits: a screen shows fewer."""
    return [float(f"{value:.6g}") for value in values]


class SeriesStore:
    """The series of the runs that were asked for last; one thread at a time."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._known: OrderedDict[Path, RunSeries] = OrderedDict()

    @contextmanager
    def of(self, folder: Path) -> Iterator[RunSeries]:
        """What the run in a folder has logged until now; nobody else reads or adds meanwhile."""
        with self._lock:
            series = self._known.pop(folder, None) or RunSeries(folder)
            self._known[folder] = series
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)
            series.refresh()
            yield series
