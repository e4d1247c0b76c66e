"""Notices what is new, and hands the newest state of the queue to every browser that waits.

One thread looks twice a second: the database's own change counter (PRAGMA data_version), the sizes
of the running run's files, and the worker's lock. Only a change makes it read more, and without a
browser it does not look at all.
"""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grpo_core.run.atomic import finite
from orchestrator.errors import QueueError
from orchestrator.queue.store import Store
from orchestrator.system.locks import is_held
from orchestrator.system.paths import Home, RunPaths
from orchestrator.ui.reader import Reader
from orchestrator.ui.shapes import Shape

TICK_S = 0.5
# Memory, disk and the clock of an estimate change without a trace in the queue.
_REFRESH_S = 10.0
# A lock is asked for by taking it: not so often that a worker that starts would meet that.
_LOCK_EVERY = 4


def to_json(value: Any) -> str:
    """JSON as a browser reads it: NaN and infinity become null."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"))


class Change:
    """Whether anything on the disk differs from the last look; cheap enough for twice a second."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._store: Store | None = None
        self._inode: int | None = None
        self._looks = 0
        self._worker = False
        # Files of the running runs.
        self.watched: tuple[Path, ...] = ()

    def mark(self) -> object:
        """Differs from the last one where something was written; QueueError."""
        if self._looks % _LOCK_EVERY == 0:
            self._worker = is_held(self._home.worker_lock)
        self._looks += 1
        return (self._queue(), self._worker, tuple(map(_size, self.watched)))

    def _queue(self) -> object:
        """The counter of the database, on a connection that stays; it may be made or replaced."""
        try:
            inode = os.stat(self._home.db).st_ino
        except FileNotFoundError:
            self.close()
            return None
        if inode != self._inode:
            self.close()
            self._store = Store.open(self._home.db, readonly=True, timeout_s=1.0)
            self._inode = inode
        assert self._store is not None
        return (inode, self._store.data_version())

    def close(self) -> None:
        """Let go of the database."""
        if self._store is not None:
            self._store.close()
        self._store, self._inode = None, None


def _size(path: Path) -> object:
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return (stat.st_ino, stat.st_size)


class Feed:
    """The newest state of the queue as JSON, numbered; browsers wait for a higher number."""

    def __init__(self, reader: Reader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._change = Change(reader.home)
        self._mark: object = object()
        self._read_at = -_REFRESH_S
        self._wake = threading.Event()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._fresh = asyncio.Event()
        self._readers = 0
        self.number = 0
        self.newest = "null"
        self._seen: Shape = {}

    # --- the browsers' side, in the event loop

    def start(self) -> None:
        """Begin; the running event loop is the one whose browsers are served."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def stop(self) -> None:
        """End the thread, and let every browser that waits go."""
        self._over = True
        self._wake.set()
        self._tell()

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self._over

    def join(self) -> None:
        """One browser more."""
        self._readers += 1
        self._wake.set()

    def leave(self) -> None:
        """One browser fewer; without any, nobody looks."""
        self._readers -= 1
        if self._readers == 0:
            self._wake.clear()

    def nudge(self) -> None:
        """Look at once: a button was pressed here."""
        self._mark = object()

    async def newer(self, number: int, timeout_s: float) -> tuple[int, str] | None:
        """The newest state, once it is newer than that number; None after the time, or the end."""
        deadline = self._clock() + timeout_s
        while self.number == number and not self._over:
            fresh = self._fresh
            left = deadline - self._clock()
            if left <= 0:
                return None
            try:
                await asyncio.wait_for(fresh.wait(), left)
            except TimeoutError:
                return None
        return None if self._over else (self.number, self.newest)

    def _publish(self, text: str) -> None:
        self.number += 1
        self.newest = text
        self._tell()

    def _tell(self) -> None:
        self._fresh.set()
        self._fresh = asyncio.Event()

    # --- the thread

    def _run(self) -> None:
        try:
            while not self._over:
                self._wake.wait()
                if not self._over:
                    self._look()
                    time.sleep(TICK_S)
        finally:
            # Also after an error of ours: a browser that is let go says that it has lost us.
            self._over = True
            self._change.close()

    def _look(self) -> None:
        """Read the queue where something has changed, or after a while."""
        try:
            mark = self._change.mark()
            due = self._clock() - self._read_at >= _REFRESH_S
            if mark == self._mark and not due:
                return
            self._mark, self._read_at = mark, self._clock()
            shape = self._reader.queue()
        except (QueueError, OSError) as e:
            # Busy, damaged, newer than we are, or gone: the page says so, and we look again.
            shape = {"error": str(e)}
            self._mark = object()
        # A fault of ours, met in what others wrote: a page that stands still would not say it.
        except Exception as e:  # noqa: BLE001
            shape = {"error": f"{type(e).__name__}: {e}"}
            self._mark = object()
        self._watch(shape)
        same = {**shape, "at": None} == {**self._seen, "at": None}
        if not same:
            self._seen = shape
            self._call(to_json(shape))

    def _watch(self, shape: Shape) -> None:
        """The files that tell of the next step of what runs."""
        runs = [shape.get("running"), *(slot["run"] for slot in shape.get("slots", []))]
        self._change.watched = tuple(
            file for run in runs if run is not None for file in self._files(run)
        )

    def _files(self, run: Shape) -> tuple[Path, ...]:
        paths = RunPaths(Path(run["folder"]))
        return (paths.log, paths.samples, self._reader.home.attempt_log(run["id"], run["attempt"]))

    def _call(self, text: str) -> None:
        assert self._loop is not None
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._publish, text)
