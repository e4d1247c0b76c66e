"""What a run writes for readers: training_log.jsonl, samples.jsonl, result.json.

Line by line and flushed, or whole at the end. What the numbers mean is decided where they are
measured. Names of times and memory end in _s, _per_s or _bytes: all the rest is reproducible.
"""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.run.atomic import finite, sync, write_atomically, write_json
from grpo_core.run.locks import is_still
from grpo_core.run.protocol import RESULT_FILE

_MEASURES = ("_s", "_bytes")

Line = dict[str, Any]


def is_measure(name: str) -> bool:
    """Whether a key is a measure of time or memory, which no two runs share."""
    return name.endswith(_MEASURES)


class JsonLines:
    """A file of JSON objects, one a line, each in the file when `write` returns."""

    def __init__(
        self, path: Path, enabled: bool = True, before_open: Callable[[], None] = lambda: None
    ) -> None:
        """`before_open` raises where the file must not be made: its folder is another by now."""
        self.path = path
        self._fd: int | None = None
        self._enabled = enabled
        self._before_open = before_open

    def write(self, line: Line) -> None:
        """Append one object; OSError where it does not go in whole."""
        if not self._enabled:
            return
        fd = self._opened()
        text = json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n"
        _write_all(fd, text.encode(), self.path)

    def touch(self) -> None:
        """Say that the run goes on, where it has nothing to write: a worker looks at the time."""
        if self._enabled:
            # Not by its path: the folder may have been moved, and another may stand there.
            os.utime(self._opened())

    def _opened(self) -> int:
        if self._fd is None:
            self._before_open()
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        return self._fd

    def cut(self, keep: Callable[[Line], bool]) -> list[Line]:
        """Keep the lines for which `keep` holds, atomically; those that stay. A torn line goes."""
        self.close()
        if not self.path.exists():
            return []
        before = self.path.read_bytes()
        read = [(raw, _parsed(raw)) for raw in before.splitlines(keepends=True)]
        kept = [(raw, line) for raw, line in read if line is not None and keep(line)]
        after = b"".join(raw for raw, _ in kept)
        if after != before:
            write_atomically(self.path, after)
        return [line for _, line in kept]

    def sync(self) -> None:
        """To the disk, so that a checkpoint is never newer than its log."""
        if self._fd is not None:
            sync(self._fd)

    @property
    def in_place(self) -> bool:
        """Whether readers find at `path` what `write` writes to."""
        return self._fd is None or is_still(self._fd, self.path)

    def close(self) -> None:
        """Close the file; the next `write` opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write_all(fd: int, content: bytes, path: Path) -> None:
    """Whole, or OSError with the file's name: a full disk takes the first part of a line."""
    try:
        while content:
            content = content[os.write(fd, content) :]
    except OSError as e:
        raise OSError(e.errno, e.strerror, str(path)) from None


def _parsed(raw: bytes) -> Line | None:
    """A line counts if it ends and is a JSON object."""
    if not raw.endswith(b"\n"):
        return None
    try:
        line = json.loads(raw)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def log_faults(lines: Iterable[Line], until: int, every: int) -> list[str]:
    """What is wrong with a log up to an update, if every so many updates are logged; else empty.

    A line that somebody has spoilt or deleted is a hole by now. What was logged more rarely by an
    earlier attempt is none: updates may come closer together, but not further apart.
    """
    found = [line["update"] for line in lines if "split" not in line]
    updates = [update for update in found if isinstance(update, int)]
    faults, last = [], 0
    step = updates[1] - updates[0] if len(updates) > 1 else every
    for update in updates:
        if update <= last:
            faults.append(f"update {update} stands there again after {last}")
            continue
        if update - last > max(step, every):
            faults.append(f"nothing stands there between updates {last} and {update}")
        step, last = update - last, update
    if until - last >= every:
        faults.append(f"nothing stands there after update {last}, up to {until}")
    return faults


def stands_at(update: int, evaluated: list[str]) -> Callable[[Line], bool]:
    """Which lines of the log a run keeps that goes on after `update`.

    Of that update's own evaluations only those in `evaluated` were done when the state was saved.
    """

    def keep(line: Line) -> bool:
        at = line.get("update")
        if not isinstance(at, int) or at > update:
            return False
        split = line.get("split")
        return split is None or at < update or split in evaluated

    return keep


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended; the body of result.json."""

    status: str
    """completed, interrupted or failed."""
    exit_code: int
    reason: str
    final: dict[str, Any]
    best: dict[str, Any]
    updates: int
    tokens: int
    wall_s: float
    """Trained over all attempts; `attempt_s` in this one. Waiting for the GPU is left out."""
    attempt_s: float
    peak_bytes: int
    config_hash: str
    device: str
    """What computed: `cpu`, or `gpu` and its name in brackets."""
    blas: str
    """What multiplied matrices on a CPU; empty where the run never came to that, and elsewhere."""
    threads: int

    def write(self, folder: Path) -> None:
        """The last file of a run, atomically."""
        write_json(folder / RESULT_FILE, {name: getattr(self, name) for name in self.__slots__})
