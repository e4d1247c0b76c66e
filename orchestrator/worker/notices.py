"""Notices: a sweep is done, has its first failure, or stands still while nobody looks.

Listens to the worker's events and reads the queue; one that fails or hangs is reported once and
never delays the training. The command gets what happened in its environment (see
`Notice.fields`), the desktop of macOS by `osascript`.
"""

import os
import queue
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from orchestrator.errors import SweepError, UsageError, WorkerBusy
from orchestrator.queue.store import Store
from orchestrator.results.leaderboard import by_setting
from orchestrator.results.objective import completed_scores, differing_keys
from orchestrator.run import HoldCode, Objective, Run, RunState, Sweep
from orchestrator.system.paths import Home
from orchestrator.system.processes import boot_id
from orchestrator.text import counts, metric, settings
from orchestrator.worker.events import Event, EventKind

# The command, for workers that nobody gives one: in the background, or by `submit --start`. Set but
# empty: no notice at all.
ENV = "GRPO_SWEEP_NOTIFY"
TIMEOUT_S = 30.0
# After so long at the end of a worker it says what it waits for.
_PATIENCE_S = 1.0

SWEEP_DONE, FIRST_FAILURE, QUEUE_STOPPED = "sweep_done", "first_failure", "queue_stopped"
WORKER_DIED = "worker_died"
TEST = "test"

# A notice can wait for others that hold the queue; the worker cannot.
_READ_TIMEOUT_S = 1.0

# The text comes as an argument: spliced into the script it could be anything.
_OSASCRIPT = (
    "on run argv",
    "display notification (item 2 of argv) with title (item 1 of argv)",
    "end run",
)

# Events after which a sweep may be done, failed for the first time or stand still.
_MAY_BE_NEWS = frozenset(
    {EventKind.STARTED, EventKind.ADOPTED, EventKind.ENDED}
    | {EventKind.SUGGESTED, EventKind.WAITING, EventKind.EMPTY}
)


# --- what is worth a notice


@dataclass(frozen=True)
class Notice:
    """Something that a person wants to know; `text` says it in a line."""

    event: str
    text: str
    reason: str = ""
    sweep: Sweep | None = None
    run: Run | None = None
    best: str = ""

    def fields(self) -> dict[str, str]:
        """The environment of the command; what does not apply is empty."""
        sweep, run = self.sweep, self.run
        state = run.state if run is not None else sweep.state if sweep is not None else ""
        found = {
            "EVENT": self.event,
            "TEXT": self.text,
            "SWEEP": "" if sweep is None else sweep.name,
            "RUN": "" if run is None else str(run.id),
            "RUN_NAME": "" if run is None else run.name,
            "STATE": str(state),
            "REASON": self.reason,
            "BEST": self.best,
            "COUNTS": "" if sweep is None else counts(sweep.counts),
        }
        # No environment can hold a NUL, and a log may.
        return {f"GRPO_SWEEP_{name}": text.replace("\0", "") for name, text in found.items()}


class Watcher:
    """Finds what is worth a notice in what a worker does; each thing once."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._worked = False
        with self._open_queue() as store:
            self._open = _open_sweeps(store)
            sweeps = store.queries.sweeps(all=True)
        # Not by the count at an event: two slots may each have a failure before the first is told.
        self._failed = {s.id for s in sweeps if s.counts.get(RunState.FAILED)}

    def _open_queue(self) -> Store:
        return Store.open(self._home.db, readonly=True, timeout_s=_READ_TIMEOUT_S)

    def notices(self, event: Event) -> list[Notice]:
        """What has happened since the last event."""
        if event.kind not in _MAY_BE_NEWS:
            return []
        self._worked |= event.kind in (EventKind.STARTED, EventKind.ADOPTED)
        with self._open_queue() as store:
            found = self._failure(store, event) + self._done(store)
            if event.run is None and event.kind in (EventKind.WAITING, EventKind.EMPTY):
                found += self._stopped(store)
        return found

    def _done(self, store: Store) -> list[Notice]:
        """The sweeps that were open before and have nothing left to do now."""
        before, self._open = self._open, _open_sweeps(store)
        if not (closed := before - self._open):
            return []
        sweeps = [
            s
            for s in store.queries.sweeps(all=True)
            if s.id in closed and s.state in ("completed", "failed")
        ]
        return [_done_notice(sweep, store.queries.runs(sweep.id)) for sweep in sweeps]

    def _failure(self, store: Store, event: Event) -> list[Notice]:
        run = event.run
        if event.kind is not EventKind.ENDED or run is None or run.state is not RunState.FAILED:
            return []
        sweep = next((s for s in store.queries.sweeps(all=True) if s.id == run.sweep_id), None)
        if sweep is None or sweep.id in self._failed:
            return []
        self._failed.add(sweep.id)
        text = f"run {run.id} {run.name} of sweep {sweep.name} failed: {run.reason}"
        best = best_text(store.queries.runs(sweep.id), sweep.objective)
        return [Notice(FIRST_FAILURE, text, run.reason or "", sweep, run, best)]

    def _stopped(self, store: Store) -> list[Notice]:
        """Runs are left and none can start, for a reason that no user has asked for."""
        if not self._worked:
            return []
        self._worked = False
        held = [
            s for s in store.queries.sweeps(latest=0) if s.hold_code not in (None, HoldCode.USER)
        ]
        reasons = [f"sweep {sweep.name} is held: {sweep.reason}" for sweep in held]
        if store.queries.halt_code(boot_id()) not in (None, HoldCode.USER):
            reasons.append(f"the queue stands still: {store.queries.halted(boot_id())}")
        if not reasons:
            return []
        reason = "; ".join(reasons)
        sweep = held[0] if len(held) == 1 else None
        best = "" if sweep is None else best_text(store.queries.runs(sweep.id), sweep.objective)
        return [Notice(QUEUE_STOPPED, f"nothing more starts: {reason}", reason, sweep, None, best)]


def _open_sweeps(store: Store) -> set[int]:
    return {
        s.id for s in store.queries.sweeps(latest=0) if s.state in ("queued", "running", "paused")
    }


def _done_notice(sweep: Sweep, runs: Sequence[Run]) -> Notice:
    best = best_text(runs, sweep.objective)
    text = f"sweep {sweep.name} is done: {counts(sweep.counts)}"
    return Notice(SWEEP_DONE, f"{text}; best: {best}" if best else text, "", sweep, None, best)


def best_text(runs: Sequence[Run], objective: Objective) -> str:
    """`learning_rate=1e-3 num_generations=8: em 45.5% (n=3)`; empty without a result."""
    found = by_setting(completed_scores(runs, objective), objective)
    if not found:
        return ""
    mean, scores = found[0]
    overrides = scores[0].run.overrides
    keys = differing_keys(run.overrides for run in runs)
    setting = settings({key: overrides[key] for key in keys if key in overrides})
    n = len(scores)
    result = f"{objective.metric} {metric(objective.metric, mean)}"
    return f"{setting}: {result} (n={n})" if setting else f"{result} (n={n})"


# --- how a notice is given


def parse_command(text: str) -> tuple[str, ...]:
    """The words of a command, the program as an absolute path; no shell. UsageError."""
    try:
        words = shlex.split(text)
    except ValueError as e:
        raise UsageError(f"--notify {text!r}: {e}; quote it as a shell would read it") from None
    program = shutil.which(os.path.expanduser(words[0])) if words else None
    if program is None:
        raise UsageError(
            f"--notify {text!r}: no such command; it is run without a shell: for pipes and "
            "variables write a script, or sh -c '...'"
        )
    return (os.path.abspath(program), *words[1:])


def command_of_environment() -> tuple[str, ...] | None:
    """What GRPO_SWEEP_NOTIFY says; None where it is not set. UsageError."""
    text = os.environ.get(ENV)
    if text is None or not text.strip():
        return None
    return parse_command(text)


def is_off() -> bool:
    """Whether GRPO_SWEEP_NOTIFY is set and empty."""
    return os.environ.get(ENV, "-").strip() == ""


def desktop_command(notice: Notice, platform: str = sys.platform) -> tuple[str, ...] | None:
    """What shows a notice on the desktop; None where we know of nothing."""
    if platform != "darwin":
        return None
    script = [word for line in _OSASCRIPT for word in ("-e", line)]
    return ("osascript", *script, "grpo-sweep", notice.text.replace("\0", ""))


class Notifier:
    """Runs the command for each notice, one after the other, in a thread of its own.

    A listener for a worker's events; use it as a context manager, which waits for the last one.
    """

    def __init__(
        self,
        home: Home,
        command: Sequence[str] | None,
        report: Callable[[str], None],
        timeout_s: float = TIMEOUT_S,
        platform: str = sys.platform,
    ) -> None:
        self._watcher = Watcher(home)
        self._command = command
        self._report = report
        self._timeout_s = timeout_s
        self._platform = platform
        self._told = False
        self._left: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="notices", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        # Of another worker that serves the queue nothing has died, and Ctrl-C is the user's.
        if error is not None and not isinstance(error, WorkerBusy | KeyboardInterrupt):
            reason = f"{type(error).__name__}: {error}"
            words = f"the worker has ended by an error, and trains nothing more: {reason}"
            self._left.put(Notice(WORKER_DIED, words, reason))
        self._left.put(None)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            self._report("waiting for the notice to be given; Ctrl-C does not wait")
            # Each command has its own time-out; a hundred of them shall not keep the worker.
            self._thread.join(2 * self._timeout_s)

    def __call__(self, event: Event) -> None:
        """Take one event of the worker."""
        try:
            notices = self._watcher.notices(event)
        except SweepError as e:
            self._fail(str(e))
            return
        for notice in notices:
            self._left.put(notice)

    def _fail(self, words: str) -> None:
        """Say once what went wrong; the training goes on."""
        if not self._told:
            self._told = True
            self._report(f"the notice was not given: {words}")

    def _work(self) -> None:
        while (notice := self._left.get()) is not None:
            desktop = desktop_command(notice, self._platform)
            if desktop is not None:
                # Where nobody is logged in there is no desktop, and nothing to say about it.
                run_quietly(desktop, {}, self._timeout_s)
            if self._command is None:
                continue
            fault = run_quietly(self._command, notice.fields(), self._timeout_s)
            if fault:
                self._fail(f"{shlex.join(self._command)}: {fault}")


def run_quietly(words: Sequence[str], fields: dict[str, str], timeout_s: float) -> str:
    """Run a command to its end, at most so long; what went wrong, else an empty text."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env={**os.environ, **fields},
                # Ctrl-C is meant for the worker; and what it starts ends with it.
                start_new_session=True,
            )
        except OSError as e:
            return e.strerror or str(e)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return f"still not done after {timeout_s:g} s, and ended"
        if code == 0:
            return ""
        errors.seek(0)
        said = errors.read(2000).decode(errors="replace").strip().splitlines()
        return f"exit code {code}" + (f": {said[-1]}" if said else "")
