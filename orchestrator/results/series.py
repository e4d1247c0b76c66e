"""Everything that runs have logged, metric by metric: read once, then only what is new.

In a bounded room, however long a log is: a metric is kept as means of equally many consecutive
updates (`curves.Bins`).
"""

import bisect
import copy
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from orchestrator.results.curves import Bins
from orchestrator.results.training_log import (
    NOT_MEASURED,
    Line,
    LogTail,
    finite_number,
    is_held_out,
    logged_seconds,
)

# Of more runs than this the oldest are read again when they are asked for.
_KEPT = 1000
# Lines whose points can be had as they are, for whoever has all the earlier ones.
_RECENT = 32
# Moments of the clock of a run.
_MOMENTS = 512


@dataclass(frozen=True)
class Points:
    """A curve for a browser: `t` are the seconds trained at each point."""

    x: list[float]
    y: list[float]
    t: list[float]

    def shape(self) -> dict[str, list[float]]:
        """As JSON."""
        return {"x": self.x, "y": self.y, "t": self.t}


class Clock:
    """How long a run had trained at an update, at no more than `_MOMENTS` of them."""

    def __init__(self) -> None:
        self._updates: array[int] = array("q")
        self._seconds: array[float] = array("d")
        self._spent = 0.0

    def add(self, update: int, seconds: float) -> None:
        """So many seconds more, spent up to this update."""
        self._spent += seconds
        if self._updates and self._updates[-1] >= update:
            self._seconds[-1] = self._spent
            return
        self._updates.append(update)
        self._seconds.append(self._spent)
        if len(self._updates) > _MOMENTS:
            # The last one stays: the run is not shorter than it was.
            del self._updates[-2::-2], self._seconds[-2::-2]

    def at(self, update: float) -> float:
        """Seconds trained, evenly spread between two moments; of what is not known 0."""
        updates, seconds = self._updates, self._seconds
        if not updates or update <= updates[0]:
            return round(seconds[0], 1) if updates else 0.0
        if update >= updates[-1]:
            return round(seconds[-1], 1)
        high = bisect.bisect_right(updates, update)
        low = high - 1
        share = (update - updates[low]) / (updates[high] - updates[low])
        return round(seconds[low] + share * (seconds[high] - seconds[low]), 1)


class RunSeries:
    """What one run has logged so far; `update` is its last, of `updates_total`."""

    def __init__(self, folder: Path) -> None:
        self._log = LogTail(folder)
        self._begin()

    def _begin(self) -> None:
        self.epoch = self._log.restarts
        self.lines = 0
        self.update: int | None = None
        self.updates_total: int | None = None
        self.clock = Clock()
        self._metrics: dict[str, Bins] = {}
        self._recent: deque[tuple[int, int, Mapping[str, float]]] = deque(maxlen=_RECENT)

    def refresh(self) -> None:
        """Read what is new."""
        lines = self._log.read()
        if self._log.restarts != self.epoch:
            self._begin()
        self.take(lines)

    def take(self, lines: Iterable[Line]) -> None:
        """The next lines of the log."""
        read: dict[str, tuple[list[int], list[float]]] = defaultdict(lambda: ([], []))
        for line in lines:
            self.lines += 1
            self._take(line, read)
        for name, (updates, values) in read.items():
            self._metrics.setdefault(name, Bins()).extend(updates, values)

    def _take(self, line: Line, read: dict[str, tuple[list[int], list[float]]]) -> None:
        update = line.get("update")
        if not isinstance(update, int):
            return
        self.update = update
        if isinstance(total := line.get("updates_total"), int):
            self.updates_total = total
        self.clock.add(update, logged_seconds(line))
        if not is_held_out(line):
            return
        values = {
            name: value
            for name, raw in line.items()
            if name not in NOT_MEASURED and (value := finite_number(raw)) is not None
        }
        for name, value in values.items():
            updates, of_metric = read[name]
            updates.append(update)
            of_metric.append(value)
        self._recent.append((self.lines, update, values))

    @property
    def curves(self) -> Mapping[str, Bins]:
        """Every metric that was logged."""
        return self._metrics

    @property
    def names(self) -> list[str]:
        """The metrics that were logged."""
        return list(self._metrics)

    def copy(self, name: str) -> tuple[Bins, Clock]:
        """A metric, empty where not logged, and the clock, as now, whatever is read later."""
        return copy.deepcopy(self._metrics.get(name, Bins())), copy.deepcopy(self.clock)

    def snapshot(self) -> tuple[dict[str, Bins], Clock]:
        """Every metric and the clock as they are now, whatever is read later."""
        return copy.deepcopy(self._metrics), copy.deepcopy(self.clock)

    def points(self, name: str) -> Points:
        """The whole curve of a metric."""
        bins = self._metrics.get(name, Bins())
        xs = [bins.middle(number) for number in bins.numbers]
        return Points(xs, rounded(bins.means), [self.clock.at(x) for x in xs])

    def has_since(self, line: int) -> bool:
        """Whether the points after a line of the log can be had one by one."""
        return 0 < line <= self.lines and line >= self.lines - _RECENT

    def since(self, name: str, line: int) -> Points:
        """The points of a metric after a line of the log; see `has_since`."""
        found = [(at, v[name]) for number, at, v in self._recent if number > line and name in v]
        xs = [float(update) for update, _ in found]
        return Points(xs, rounded(y for _, y in found), [self.clock.at(x) for x in xs])


def rounded(values: Iterable[float]) -> list[float]:
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
