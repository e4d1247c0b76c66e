"""What a worker does, as it does it: one line an event, or a live view in a terminal.

Listens to the worker's events and reads the runs' logs; decides nothing. All of it is messages
and goes to stderr.
"""

import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.queue.store import Store
from orchestrator.run import FIRST_SLOT, Progress, Run, RunState, Sweep, slot_order
from orchestrator.system.paths import Home
from orchestrator.system.processes import boot_id
from orchestrator.text import counts, duration, number, plural
from orchestrator.views.learning_curves import CurveCache, read_learning_curves
from orchestrator.views.now import last_text, run_lines
from orchestrator.views.overview import read_overview, updates_text
from orchestrator.views.tables import STATE_STYLES, left_text
from orchestrator.worker.events import Event, EventKind
from orchestrator.worker.serving import serving_worker

_SEEN = (EventKind.STARTED, EventKind.ADOPTED, EventKind.PROGRESS)

# In a file every tenth of a run is a line, not every update.
_STEPS = 10
# Counting a long queue costs; it moves slowly.
_RECOUNT_S = 2.0
# The worker draws between two looks at its trainer: a queue that others hold is read later.
_READ_TIMEOUT_S = 0.2


class WorkerView(Protocol):
    """Takes the worker's events, inside a `with`."""

    def __call__(self, event: Event) -> None:
        """Take one event."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def worker_view(home: Home, console: Console) -> WorkerView:
    """The live view in a terminal that can show it, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(home, console)
    return Lines(lambda line: console.print(line, soft_wrap=True), home)


# --- words


def ended_text(run: Run, progress: Progress | None) -> str:
    """`completed 30/30, reward 0.52, em 31.2% → 45.5%, in 1m 02s`, or why it did not."""
    now = progress or Progress()
    if run.state is not RunState.COMPLETED:
        reason = f": {run.reason}" if run.reason else ""
        verb = "goes back into the queue" if run.state is RunState.QUEUED else str(run.state)
        return f"{verb}{reason}"
    words = [f"completed {updates_text(now)}", *_result_text(run, now)]
    return ", ".join([*words, f"in {duration(run.wall_s)}"])


def progress_text(run: Run, now: Progress) -> str:
    """`update 14/30, reward 0.52, em 38.0%, about 25s left`."""
    words = [f"update {updates_text(now)}", *_result_text(run, now)]
    left = now.left_s
    return ", ".join([*words, *([f"about {duration(left)} left"] if left is not None else [])])


def _result_text(run: Run, now: Progress) -> list[str]:
    words = []
    if now.metrics.get("reward_mean") is not None:
        words.append(f"reward {number(now.metrics['reward_mean'])}")
    score = read_learning_curves(run.folder).score_text()
    return [*words, score] if score else words


def end_text(home: Home | None) -> str:
    """Why a worker ends by itself: all is done, or what is left cannot start."""
    if home is not None:
        with _open_queue(home) as store:
            waiting = store.queries.waiting(boot_id())
            latest = store.queries.sweeps(latest=1)[-1:]
        if waiting.queued:
            held = "; ".join(waiting.held)
            return f"{plural(waiting.queued, 'run')} left, and none can start: {held}"
        if latest and latest[0].state == "failed":
            name = latest[0].name
            return (
                f"nothing is left to do, and sweep {name} has no result: "
                f"{counts(latest[0].counts)}; why: grpo-sweep status {name}; "
                f"once that is mended: grpo-sweep retry {name}"
            )
    return "nothing is left to do; results: grpo-sweep best"


# --- lines


class Lines:
    """One line an event; of a run's progress every tenth."""

    def __init__(self, write: Callable[[str], None], home: Home | None = None) -> None:
        self._write = write
        self._home = home
        self._steps: dict[int, int] = {}

    def __call__(self, event: Event) -> None:
        """Say what has happened."""
        run = event.run
        if event.kind is EventKind.EMPTY:
            self._write(end_text(self._home))
        elif run is None:
            self._write(event.text)
        elif event.kind is EventKind.PROGRESS:
            self._progress(run, event.progress or Progress())
        elif event.kind is EventKind.ENDED:
            self._steps.pop(run.id, None)
            self._write(f"run {run.id} {run.name}: {ended_text(run, event.progress)}")
        else:
            # Not at other news: the next trainer gets ready while this run goes on.
            if event.kind in (EventKind.STARTED, EventKind.ADOPTED):
                self._steps[run.id] = 0
            self._write(f"run {run.id} {run.name}: {event.kind}, {event.text}")

    def _progress(self, run: Run, now: Progress) -> None:
        step = _STEPS * (now.update or 0) // now.updates_total if now.updates_total else 0
        if step > self._steps.get(run.id, 0):
            self._steps[run.id] = step
            self._write(f"run {run.id} {run.name}: {progress_text(run, now)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


# --- live


class LiveView:
    """What runs and what is left, redrawn in place; ended runs stay above as lines."""

    def __init__(self, home: Home, console: Console) -> None:
        self._home = home
        self._console = console
        # By slot: the run there, how far it was when it was seen last, and when that was.
        self._runs: dict[str, tuple[Run, Progress, float]] = {}
        self._status = ""
        self._queue = Text()
        self._counted = -_RECOUNT_S
        self._cache = CurveCache()
        # Drawn by a thread of its own, several times a second, so that the time left runs down.
        self._live = Live(
            console=console,
            get_renderable=self._render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take what has happened into the picture."""
        if event.kind is not EventKind.PROGRESS:
            self._status = (
                event.text if event.kind in (EventKind.STOPPING, EventKind.WAITING) else ""
            )
        if event.kind is EventKind.EMPTY:
            self._console.print(end_text(self._home), style="dim", soft_wrap=True)
        if event.kind is EventKind.ENDED and event.run is not None:
            self._print_ended(event.run, event.progress)
            self._keep(event.run, None)
        elif event.run is not None and event.kind in _SEEN:
            self._keep(event.run, event.progress or Progress())
        self._recount(force=event.kind is not EventKind.PROGRESS)

    def _keep(self, run: Run, now: Progress | None) -> None:
        """Note how far a run is, None: it has ended; a new mapping, for another thread draws."""
        others = {slot: seen for slot, seen in self._runs.items() if seen[0].id != run.id}
        own = {} if now is None else {run.slot or FIRST_SLOT: (run, now, time.monotonic())}
        self._runs = others | own

    def _print_ended(self, run: Run, progress: Progress | None) -> None:
        mark = {RunState.COMPLETED: "✓", RunState.QUEUED: "↻"}.get(run.state, "✗")
        style = STATE_STYLES[run.state]
        words = ended_text(run, progress)
        line = Text.assemble((f"{mark} {run.id:>3} ", style), (run.name, "bold"), f"  {words}")
        self._console.print(line, soft_wrap=True)

    def _recount(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._counted >= _RECOUNT_S:
            self._counted = now
            self._queue = _queue_line(self._home)

    def _render(self) -> Group:
        """Called by the drawing thread; reads only what one assignment has put there."""
        runs = self._runs
        lines = [
            line
            for slot in sorted(runs, key=slot_order)
            for line in self._run_lines(*runs[slot], slot if len(runs) > 1 else None)
        ]
        if self._status:
            lines.append(Text(self._status, style="dim", overflow="ellipsis", no_wrap=True))
        return Group(*lines, self._queue)

    def _run_lines(self, run: Run, now: Progress, seen_at: float, slot: str | None) -> list[Text]:
        rest = now.left_s
        if rest is not None:
            rest = max(0.0, rest - (time.monotonic() - seen_at))
        note = last_text(self._home, run) if now.update is None else ""
        return run_lines(run, now, self._cache.of(run), self._console.width, rest, note, slot)


def _open_queue(home: Home) -> Store:
    return Store.open(home.db, readonly=True, timeout_s=_READ_TIMEOUT_S)


def _queue_line(home: Home) -> Text:
    """`demo: 2 completed, 1 running, 3 queued · 2m 10s – 2m 50s left · Ctrl-C stops safely`."""
    worker = serving_worker(home)
    with _open_queue(home) as store:
        open_sweeps = [
            s for s in store.queries.sweeps(latest=0) if s.state in ("queued", "running")
        ]
        view = read_overview(store, open_sweeps, worker=worker)
    line = Text(overflow="ellipsis", no_wrap=True)
    line.append(_sweep_text(open_sweeps))
    if open_sweeps and view.whole is not None:
        line.append(f" · {left_text(view.whole)}", style="cyan")
    return line.append(" · Ctrl-C stops safely", style="dim")


def _sweep_text(sweeps: list[Sweep]) -> str:
    if len(sweeps) == 1:
        return f"{sweeps[0].name}: {counts(sweeps[0].counts)}"
    if not sweeps:
        return "nothing is left to do"
    total: dict[RunState, int] = {}
    for sweep in sweeps:
        for state, n in sweep.counts.items():
            total[state] = total.get(state, 0) + n
    return f"{len(sweeps)} sweeps: {counts(total)}"
