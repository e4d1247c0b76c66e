"""How far a run has come and what it logged, read from the files that its trainer writes.

Reads only what is new in training_log.jsonl. A torn last line is left for the next look; a log
that was cut or replaced (a trainer that resumes cuts it at its checkpoint) is read anew.
"""

import json
import math
import os
from collections import deque
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from orchestrator.run import Progress
from orchestrator.system.paths import RunPaths

Line = dict[str, Any]

# Over how many updates the time of one is averaged: some minutes of most runs.
_WINDOW = 20
_MOST = 2**63 - 1
# What a line says besides measures.
NOT_MEASURED = frozenset({"update", "updates_total", "batch_step", "n", "split"})


def read_progress(folder: Path) -> Progress:
    """The progress of the run in `folder`; empty where nothing is written yet."""
    return ProgressReader(folder).read()


def read_curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """(update, value) of a metric in logged order; of evaluations the held-out ones only."""
    return read_curves(folder, [metric])[metric]


def read_curves(folder: Path, metrics: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """As `read_curve` for several metrics in one reading; a metric that is not logged is empty."""
    return curves_of(read_log(folder), metrics)


def curves_of(lines: Iterable[Line], metrics: Iterable[str]) -> dict[str, list[tuple[int, float]]]:
    """As `read_curves`, of lines that were read already."""
    curves: dict[str, list[tuple[int, float]]] = {metric: [] for metric in metrics}
    for line in lines:
        if not is_held_out(line) or not isinstance(line.get("update"), int):
            continue
        for metric, curve in curves.items():
            if (value := finite_number(line.get(metric))) is not None:
                curve.append((line["update"], value))
    return curves


def read_log(folder: Path) -> list[Line]:
    """Every whole line of a run's training log; none where there is no log."""
    try:
        text = RunPaths(folder).log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # What stands behind the last line break is torn.
    return [line for raw in text.split("\n")[:-1] if (line := _parse(raw)) is not None]


def log_time(folder: Path) -> float:
    """When a run's training log was last written, in seconds since the epoch; 0 without a log."""
    try:
        return os.stat(RunPaths(folder).log).st_mtime
    except OSError:
        return 0.0


def value_before(folder: Path, metric: str) -> float | None:
    """What a run measured before its first update, None where it did not; reads no further."""
    try:
        with open(RunPaths(folder).log, encoding="utf-8", errors="replace") as log:
            for line in filter(None, map(_parse, log)):
                if line.get("update") != 0:
                    return None
                if is_held_out(line) and (value := finite_number(line.get(metric))) is not None:
                    return value
    except OSError:
        return None
    return None


def is_held_out(line: Line) -> bool:
    """Not an evaluation on training rows: `em` and `eval_reward` mean held-out rows everywhere."""
    return line.get("split") in (None, "test")


def held_out_metric(logged: Container[str]) -> str:
    """The score of held-out rows that a run with these keys in its log goes by."""
    return "eval_reward" if "eval_reward" in logged and "em" not in logged else "em"


class LogTail:
    """A training log as it grows; each `read` costs only what was written since the last.

    `restarts` counts how often the log was cut or replaced: what was read before is then void.
    """

    def __init__(self, folder: Path) -> None:
        self._path = RunPaths(folder).log
        self._offset = 0
        self._inode = -1
        self._last = b""
        self.restarts = 0

    def read(self) -> list[Line]:
        """The whole lines since the last look, or since the log began anew."""
        try:
            with open(self._path, "rb") as log:
                self._restart_if_replaced(log.fileno())
                log.seek(self._offset)
                new = log.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.splitlines(keepends=True)
        if lines:
            self._last = lines[-1]
        return [line for raw in lines if (line := _parse(raw)) is not None]

    def _restart_if_replaced(self, fd: int) -> None:
        """Start over unless the file still holds, where we stopped, the line that we read last."""
        inode = os.fstat(fd).st_ino
        same = os.pread(fd, len(self._last), self._offset - len(self._last)) == self._last
        if inode != self._inode or not same:
            self._offset, self._inode, self._last = 0, inode, b""
            self.restarts += 1


class ProgressReader:
    """Follows one run; each `read` costs only what was written since the last."""

    def __init__(self, folder: Path) -> None:
        self._log = LogTail(folder)
        self._restart()

    def _restart(self) -> None:
        self._restarts = self._log.restarts
        self._update: int | None = None
        self._metrics: Line = {}
        self._total: int | None = None
        self.longest_s: float | None = None
        """The longest update or evaluation; None before the first."""
        self._seconds: deque[tuple[int, float]] = deque(maxlen=4 * _WINDOW)

    def read(self) -> Progress:
        """What is known now."""
        lines = self._log.read()
        if self._log.restarts != self._restarts:
            self._restart()
        for line in lines:
            self._take(line)
        return Progress(self._update, self._total, dict(self._metrics), self._pace())

    def _take(self, line: Line) -> None:
        update = line.get("update")
        if isinstance(update, int):
            self._update = update
            seconds = logged_seconds(line)
            self._seconds.append((update, seconds))
            self.longest_s = max(self.longest_s or 0.0, seconds)
        if isinstance(total := line.get("updates_total"), int):
            self._total = total
        if is_held_out(line):
            self._metrics.update({key: _finite(value) for key, value in line.items()})

    def _pace(self) -> float | None:
        """Seconds an update, over the last ones, with the evaluations among them."""
        if self._update is None:
            return None
        recent = [(u, s) for u, s in self._seconds if u > self._update - _WINDOW]
        updates = len({u for u, _ in recent if u > 0})
        total = sum(s for _, s in recent)
        return total / updates if updates and total > 0 else None


def logged_seconds(line: Line) -> float:
    """The durations in a line; rates end in _per_s."""
    return sum(
        finite_number(value) or 0.0
        for key, value in line.items()
        if key.endswith("_s") and not key.endswith("_per_s")
    )


def interval_of(value: Any) -> tuple[float, float] | None:
    """A logged interval; None where it is none."""
    ends = [finite_number(end) for end in value] if isinstance(value, list) else []
    if len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return ends[0], ends[1]


def finite_number(value: Any) -> float | None:
    """A logged value as a number that can be compared; None where it is none."""
    if type(value) is float:  # nearly all of them, and a report reads millions
        return value if math.isfinite(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # JSON knows no largest integer.
        return None
    return number if math.isfinite(number) else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _parse(raw: bytes | str) -> Line | None:
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    if not isinstance(line, dict):
        return None
    counts = (line.get("update"), line.get("updates_total"))
    # JSON knows no largest integer; the queue and a curve do. No run counts that far.
    if any(isinstance(count, int) and abs(count) > _MOST for count in counts):
        return None
    return line


def _read_object(path: Path) -> Line:
    try:
        return _parse(path.read_bytes()) or {}
    except OSError:
        return {}


# --- result.json


def result_identity(folder: Path) -> str | None:
    """Differs between a result.json and a later one in its place; None where there is none."""
    try:
        stat = os.stat(RunPaths(folder).result)
    except OSError:
        return None
    return f"{stat.st_ino}:{stat.st_mtime_ns}"


def read_result(folder: Path) -> dict[str, Any] | None:
    """The trainer's result.json; None where there is none that can be read."""
    return _read_object(RunPaths(folder).result) or None


def read_versions(folder: Path) -> dict[str, str]:
    """The versions that a run recorded; empty where it wrote none."""
    try:
        config = json.loads(RunPaths(folder).resolved_config.read_bytes())
        return {str(key): str(value) for key, value in config["versions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
