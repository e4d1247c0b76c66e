"""The status as it changes: redrawn in a terminal until a key, printed anew in a pipe.

Opens the queue read-only each time and touches nothing else: whatever happens here, the
training goes on.
"""

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

from orchestrator.errors import QueueError
from orchestrator.queue.store import Store
from orchestrator.run import Run
from orchestrator.system.paths import Home
from orchestrator.views.learning_curves import CurveCache
from orchestrator.views.now import is_open, last_text
from orchestrator.views.overview import Overview, ProgressReaders, read_overview
from orchestrator.views.status import rows_for, status_picture
from orchestrator.worker.serving import ServingWorker, serving_worker

EMPTY = "the queue is empty; try: grpo-sweep demo   or: grpo-sweep submit SPEC"
_FOOTER = "q leaves; the training goes on"
_CTRL_D = "\x04"
# In a pipe the status is printed again after each tenth of a run, not by updates.
_STEPS = 10
_PIPE_WIDTH = 100
# Lines that a sweep takes beside its runs: its name, heads, what else there is, and an empty one.
_LINES_OF_SWEEP = 5
_LINES_OF_NOW = 9
_LEAST_ROWS = 3


class StatusReader:
    """Reads the queue again and again; remembers logs that it has read."""

    def __init__(self, home: Home, sweep: str | None) -> None:
        self._home = home
        self._sweep = sweep
        self._cache = CurveCache()
        self._readers = ProgressReaders()

    def read(self, lines: int | None) -> "Snapshot":
        """The queue now, for a terminal of so many lines; QueueError, NothingAffected."""
        worker = serving_worker(self._home)
        with Store.open(self._home.db, readonly=True) as store:
            sweeps = (
                [store.queries.sweep(self._sweep)]
                if self._sweep
                else store.queries.sweeps(latest=2)
            )
            rows = rows_for(sweeps, _rows(lines, len(sweeps)))
            view = read_overview(store, sweeps, 0, rows, self._readers.of, worker)
        return Snapshot(self._home, view, worker, self._cache)


def _rows(lines: int | None, sweeps: int) -> int:
    if lines is None:
        return 12
    return max(_LEAST_ROWS, lines - _LINES_OF_NOW - _LINES_OF_SWEEP * sweeps)


class Snapshot:
    """The queue at one moment."""

    def __init__(
        self, home: Home, view: Overview, worker: ServingWorker | None, cache: CurveCache
    ) -> None:
        self._home = home
        self._view = view
        self._worker = worker
        self._cache = cache

    @property
    def is_over(self) -> bool:
        """Nothing runs, and nothing waits that is not held."""
        return not self._view.running and not any(map(is_open, self._view.sweeps))

    def picture(self, width: int) -> RenderableType:
        """What a terminal of that width shows."""
        view = self._view
        if not view.sweeps:
            return Text(EMPTY)
        notes = {run.id: last_text(self._home, run) for run in view.running}
        return status_picture(
            view,
            self._worker,
            width,
            datetime.now(UTC),
            notes=notes,
            cache=self._cache,
            sparklines=True,
        )

    def mark(self) -> Any:
        """Differs from that of another snapshot where what changed is worth printing."""
        view = self._view
        counts = [(s.id, s.state, sorted(s.counts.items()), s.to_ask) for s in view.sweeps]
        paused = [*view.paused]
        return (self._worker, view.halted, paused, counts, [*map(self._step, view.running)])

    def _step(self, run: Run) -> tuple[int, int, int]:
        now = self._view.progress[run.id]
        step = _STEPS * (now.update or 0) // now.updates_total if now.updates_total else 0
        return (run.id, run.attempt, step)


# --- in a terminal


class Page:
    """A picture with our last line below it; what the terminal has no room for is left out."""

    def __init__(self, picture: RenderableType) -> None:
        self._picture = picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich asks for it: `options.height` is what the terminal has."""
        room = (options.height or console.height) - 2
        lines = console.render_lines(self._picture, options.update(height=None), pad=False)
        if len(lines) > room:
            lines = [*lines[: max(1, room - 1)], [Segment("…")]]
        for line in lines:
            yield from line
            yield Segment.line()
        yield Text(f"\n{_FOOTER}", style="dim", no_wrap=True)


def watch_live(reader: StatusReader, console: Console, tick_s: float) -> None:
    """Redraw until q, Ctrl-C or the end of the input; then leave the last picture behind."""
    snapshot = reader.read(console.height)
    with (
        # Ctrl-C is one of the ways out.
        contextlib.suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(console=console, screen=True, auto_refresh=False, transient=True) as live,
    ):
        while True:
            live.update(Page(snapshot.picture(console.width)), refresh=True)
            if pressed(tick_s) in ("q", "Q", _CTRL_D):
                break
            # A queue that is locked for a moment is looked at again.
            with contextlib.suppress(QueueError):
                snapshot = reader.read(console.height)
    console.print(snapshot.picture(console.width))


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key at most so long, and gives it without Enter."""
    if not sys.stdin.isatty():
        yield _no_key
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield lambda wait_s: _key(number, wait_s)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def _key(number: int, wait_s: float) -> str:
    ready, _, _ = select.select([number], [], [], wait_s)
    # The end of the input leaves as q does: the terminal has gone.
    return (os.read(number, 1).decode(errors="replace") or "q") if ready else ""


def _no_key(wait_s: float) -> str:
    time.sleep(wait_s)
    return ""


# --- in a pipe


def watch_plain(reader: StatusReader, console: Console, tick_s: float) -> None:
    """Print the status each time that something has changed, until nothing is left to do."""
    last: Any = None
    while True:
        snapshot = reader.read(None)
        if snapshot.mark() != last:
            last = snapshot.mark()
            console.print(f"--- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}")
            console.print(snapshot.picture(_PIPE_WIDTH))
            console.file.flush()
        if snapshot.is_over:
            return
        time.sleep(tick_s)
