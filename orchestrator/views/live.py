"""What a worker does, as it does it: one line an event, or a live view in a terminal.

Listens to the worker's events and reads the runs' logs; decides nothing. Everything here is talk
and goes to stderr.
"""

import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from orchestrator.launcher import read_tail
from orchestrator.paths import Home
from orchestrator.run import Progress, Run, RunState, Sweep
from orchestrator.store import Store
from orchestrator.views.facts import curve, gather
from orchestrator.views.tables import STATE_STYLES, updates_text
from orchestrator.views.text import bar, counts, duration, number, percent, sparkline
from orchestrator.worker import Event

# In a file every tenth of a run is told, not every update.
_STEPS = 10
# Counting a long queue costs; it moves slowly.
_RECOUNT_S = 2.0
_SPARK_WIDTH = 24


class Listener(Protocol):
    """Takes the worker's events, inside a `with`."""

    def __call__(self, event: Event) -> None:
        """Take one event."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def listener(home: Home, console: Console) -> Listener:
    """The live view in a terminal that can show it, else lines."""
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(home, console)
    return Lines(lambda line: console.print(line, soft_wrap=True, markup=False))


# --- words


def ended_words(run: Run, progress: Progress | None) -> str:
    """`completed 30/30, reward 0.52, em 31.2% → 45.5%, in 1m 02s`, or why it did not."""
    now = progress or Progress()
    if run.state is not RunState.COMPLETED:
        reason = f": {run.reason}" if run.reason else ""
        verb = "goes back into the queue" if run.state is RunState.QUEUED else str(run.state)
        return f"{verb}{reason}"
    words = [f"completed {updates_text(now)}", *_result_words(run, now)]
    return ", ".join([*words, f"in {duration(run.wall_s)}"])


def progress_words(run: Run, now: Progress) -> str:
    """`update 14/30, reward 0.52, em 38.0%, about 25s left`."""
    words = [f"update {updates_text(now)}", *_result_words(run, now)]
    left = left_s(now)
    return ", ".join([*words, *([f"about {duration(left)} left"] if left is not None else [])])


def _result_words(run: Run, now: Progress) -> list[str]:
    words = []
    if now.metrics.get("reward_mean") is not None:
        words.append(f"reward {number(now.metrics['reward_mean'])}")
    em = em_words(run)
    return [*words, f"em {em}"] if em else words


def em_words(run: Run) -> str:
    """`31.2% → 45.5%`: exact match on held-out rows, at first and now; empty without any."""
    values = [value for _, value in curve(run.folder, "em")]
    if not values:
        return ""
    return (
        percent(values[0]) if len(values) == 1 else f"{percent(values[0])} → {percent(values[-1])}"
    )


def left_s(now: Progress) -> float | None:
    """Seconds that the run will still take, as far as that is known."""
    if now.s_per_update is None or now.updates_total is None or now.update is None:
        return None
    return now.s_per_update * max(0, now.updates_total - now.update)


# --- lines


class Lines:
    """One line an event; of a run's progress every tenth."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._step = 0

    def __call__(self, event: Event) -> None:
        """Say what has happened."""
        run = event.run
        if event.kind == "empty":
            self._write("nothing is left to do; results: grpo-sweep best")
        elif run is None:
            self._write(event.text)
        elif event.kind == "progress":
            self._progress(run, event.progress or Progress())
        elif event.kind == "ended":
            self._write(f"run {run.id} {run.name}: {ended_words(run, event.progress)}")
        else:
            self._step = 0
            self._write(f"run {run.id} {run.name}: {event.kind}, {event.text}")

    def _progress(self, run: Run, now: Progress) -> None:
        step = _STEPS * (now.update or 0) // now.updates_total if now.updates_total else 0
        if step > self._step:
            self._step = step
            self._write(f"run {run.id} {run.name}: {progress_words(run, now)}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None


# --- live


class LiveView:
    """The running run and what is left, redrawn in place; ended runs stay above as lines."""

    def __init__(self, home: Home, console: Console) -> None:
        self._home = home
        self._console = console
        self._run: Run | None = None
        self._progress = Progress()
        self._seen_at = time.monotonic()
        self._status = ""
        self._queue = Text()
        self._counted = -_RECOUNT_S
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
        if event.kind != "progress":
            self._status = event.text if event.kind in ("stopping", "waiting") else ""
        if event.kind == "ended" and event.run is not None:
            self._print_ended(event.run, event.progress)
            self._run = None
        elif event.kind in ("started", "adopted", "progress"):
            self._run, self._progress = event.run, event.progress or Progress()
            self._seen_at = time.monotonic()
        self._recount(force=event.kind != "progress")

    def _print_ended(self, run: Run, progress: Progress | None) -> None:
        mark = {RunState.COMPLETED: "✓", RunState.QUEUED: "↻"}.get(run.state, "✗")
        style = STATE_STYLES[run.state]
        words = ended_words(run, progress)
        line = Text.assemble((f"{mark} {run.id:>3} ", style), (run.name, "bold"), f"  {words}")
        self._console.print(line, soft_wrap=True)

    def _recount(self, force: bool) -> None:
        now = time.monotonic()
        if force or now - self._counted >= _RECOUNT_S:
            self._counted = now
            self._queue = _queue_line(self._home)

    def _render(self) -> Group:
        """Called by the drawing thread; reads only what one assignment has put there."""
        lines = [] if self._run is None else self._run_lines(self._run, self._progress)
        if self._status:
            lines.append(Text(self._status, style="dim", overflow="ellipsis", no_wrap=True))
        return Group(*lines, self._queue)

    def _run_lines(self, run: Run, now: Progress) -> list[Text]:
        width = max(10, min(self._console.width, 100))
        if now.update is None:
            note = self._last_words(run)
            head = Text.assemble(("▶ ", "cyan"), (f"{run.id} {run.name}", "bold"), "  starting")
            return [head, Text(f"  {note}", style="dim", overflow="ellipsis", no_wrap=True)]
        left = left_s(now)
        if left is not None:
            left = max(0.0, left - (time.monotonic() - self._seen_at))
        head = Text.assemble(
            ("▶ ", "cyan"),
            (f"{run.id} {run.name}", "bold"),
            f"  update {updates_text(now)}",
            (f"  about {duration(left)} left" if left is not None else "", "cyan"),
        )
        lines = [head, self._numbers(run, now)]
        if now.updates_total:
            lines.insert(1, _bar_line(now.update / now.updates_total, width - 2))
        return lines

    def _numbers(self, run: Run, now: Progress) -> Text:
        rewards = [value for _, value in curve(run.folder, "reward_mean")]
        low, high = (min(rewards), max(rewards)) if rewards else (0.0, 0.0)
        line = Text(f"  reward {number(now.metrics.get('reward_mean'))} ")
        line.append(sparkline(rewards, _SPARK_WIDTH, low, high), style="green")
        em = em_words(run)
        return line.append(f"  em {em}") if em else line

    def _last_words(self, run: Run) -> str:
        """Before the first update: what the trainer says, such as who holds the GPU."""
        tail = read_tail(self._home.attempt_log(run.id, run.attempt), limit=4096)
        return next((line for line in reversed(tail.splitlines()) if line.strip()), "")


def _bar_line(share: float, width: int) -> Text:
    drawn = bar(share, width)
    full = drawn.count(drawn[0]) if share > 0 else 0
    return Text.assemble("  ", (drawn[:full], "cyan"), (drawn[full:], "dim"))


def _queue_line(home: Home) -> Text:
    """`demo: 2 completed, 1 running, 3 queued · about 2m 30s left · Ctrl-C stops safely`."""
    with Store.open(home.db, readonly=True) as store:
        open_sweeps = [s for s in store.sweeps() if s.state in ("queued", "running")]
        view = gather(store, open_sweeps)
    line = Text(overflow="ellipsis", no_wrap=True)
    line.append(_sweep_words(open_sweeps))
    left = view.eta_s[open_sweeps[-1].id] if open_sweeps else None
    if left is not None:
        line.append(f" · about {duration(left)} left", style="cyan")
    return line.append(" · Ctrl-C stops safely", style="dim")


def _sweep_words(sweeps: list[Sweep]) -> str:
    if len(sweeps) == 1:
        return f"{sweeps[0].name}: {counts(sweeps[0].counts)}"
    if not sweeps:
        return "nothing is left to do"
    total: dict[RunState, int] = {}
    for sweep in sweeps:
        for state, n in sweep.counts.items():
            total[state] = total.get(state, 0) + n
    return f"{len(sweeps)} sweeps: {counts(total)}"
