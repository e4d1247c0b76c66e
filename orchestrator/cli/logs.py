"""`grpo-sweep logs`: what a trainer printed; with -f as it comes, from run to run."""

import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import click

from grpo_core.terminal import unfiltered
from orchestrator.cli.background import no_worker_hint
from orchestrator.cli.output import say
from orchestrator.cli.references import Ref, one_run
from orchestrator.errors import NothingAffected
from orchestrator.queue.store import Store
from orchestrator.run import END_STATES, Run, RunState
from orchestrator.system.locks import is_held
from orchestrator.system.paths import home
from orchestrator.worker.serving import is_served

Write = Callable[[str], object]

_POLL_S = 0.2
_TAIL_LINES = 20


@click.command()
@click.argument("run", required=False, type=Ref(runs=True, sweeps=False))
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come, to the next run too.")
@click.option("-n", "--lines", type=click.IntRange(min=0), help="Only the last so many lines.")
@click.option("--raw", is_flag=True, help="As it was printed: a terminal obeys escapes in it.")
def logs(run: str | None, follow: bool, lines: int | None, raw: bool) -> None:
    """What a RUN printed; without one, what runs now, else what ran last.

    \b
    Examples:
      grpo-sweep logs -f           what runs, from run to run
      grpo-sweep logs 12 -n 50
    """
    write = _write_raw if raw else _write_lines
    with Store.open(readonly=True) as store:
        if follow:
            _follow(store, run, _TAIL_LINES if lines is None else lines, write)
        else:
            found = one_run(store, run) if run else _latest(store)
            for path in _logs_of(store, found):
                _print_tail(path, lines, write)


def _write_lines(text: str) -> None:
    """What a progress bar wrote over itself as lines; other control characters become text."""
    sys.stdout.write(text.replace("\r\n", "\n").replace("\r", "\n"))


def _write_raw(text: str) -> None:
    unfiltered(sys.stdout).write(text)


def _latest(store: Store) -> Run:
    """The run that runs, else the one that ended last."""
    found = store.status.last_started()
    if found is None:
        raise NothingAffected("no run has started yet; start a worker with: grpo-sweep work")
    return found


def _logs_of(store: Store, run: Run) -> list[Path]:
    attempts = store.queries.attempts(run.id)
    if not attempts:
        raise NothingAffected(f"run {run.id} has not started yet (it is {run.state})")
    return [Path(attempt.log) for attempt in attempts]


def _print_tail(path: Path, lines: int | None, write: Write) -> None:
    try:
        with open(path, encoding="utf-8", errors="replace", newline="\n") as file:
            for line in file if lines is None else deque(file, maxlen=lines):
                write(line)
    except OSError as e:
        say(f"{path}: cannot be read: {e.strerror}")


# --- follow


def _follow(store: Store, ref: str | None, lines: int, write: Write) -> None:
    """One run until it ends, or, where none is named, every run until nothing is left."""
    if ref is not None:
        _follow_run(store, one_run(store, ref).id, lines, write)
        return
    seen: set[tuple[int, int]] = set()
    while (run := _next_running(store, seen)) is not None:
        say(f"--- run {run.id}: {run.name} (sweep {run.sweep})")
        _follow_run(store, run.id, lines if not seen else sys.maxsize, write)
        seen.add((run.id, run.attempt))


def _next_running(store: Store, seen: set[tuple[int, int]]) -> Run | None:
    """A run that runs now, waiting for one; None when nothing waits any more."""
    said = False
    while True:
        running = store.queries.running()
        for run in running:
            if (run.id, run.attempt) not in seen:
                return run
        if not running and not store.queries.runs(states=[RunState.QUEUED], limit=1):
            if not seen:
                say("nothing runs and nothing is queued")
            return None
        hint = "" if said else no_worker_hint()
        if hint:
            say(hint)
            said = True
        time.sleep(_POLL_S)


def _follow_run(store: Store, run_id: int, lines: int, write: Write) -> None:
    """Print a run's log as it grows, attempt by attempt, until the run has ended."""
    printed = 0
    tail: _Tail | None = None
    while True:
        run = store.queries.run(run_id)
        attempts = store.queries.attempts(run_id)
        over = run.state in END_STATES or _is_orphan(run)
        if tail is None and attempts:
            printed = len(attempts) - 1
            tail = _Tail(Path(attempts[printed].log), lines)
        if tail is not None:
            tail.print_new(write)
            if len(attempts) > printed + 1:
                printed += 1
                tail = _Tail(Path(attempts[printed].log), sys.maxsize)
                continue
        if over:
            return
        time.sleep(_POLL_S)


def _is_orphan(run: Run) -> bool:
    """Whether a run still counts as running though its trainer and its worker are gone."""
    gone = run.state == "running" and not is_served()
    return gone and not is_held(home().run_lock(run.id))


class _Tail:
    """A growing file: its last `lines` lines, then whatever comes."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._lines = lines
        self._offset = -1

    def print_new(self, write: Write) -> None:
        """Print what has come since the last look."""
        try:
            with open(self._path, "rb") as file:
                if self._offset < 0:
                    new = b"".join(deque(file, maxlen=min(self._lines, 1_000_000)))
                else:
                    file.seek(self._offset)
                    new = file.read()
                self._offset = file.tell()
        except OSError:
            return  # Not there yet.
        write(new.decode("utf-8", errors="replace"))
        sys.stdout.flush()
