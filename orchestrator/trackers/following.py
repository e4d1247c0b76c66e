"""Sends the runs that a worker trains to a tool outside while they train; a process of its own.

    python -m orchestrator.trackers.following TOOL=PLACE

Its input names the runs that the worker began or ended, a number a line; its end is the worker's.
What goes wrong first is the line of its output: the worker says it and goes on. What a tool did
not take it is given at the next look, or by `export`.
"""

import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial

from orchestrator.errors import NothingAffected, QueueError
from orchestrator.queue.store import Store
from orchestrator.run import Run, RunState
from orchestrator.system.paths import home
from orchestrator.trackers.sending import Sender
from orchestrator.trackers.targets import Target, parse_targets
from orchestrator.trackers.tracked import Tracked, Tracker

# How often the logs are looked at.
_TICK_S = 1.0
# A tool that fails is tried again after two seconds, four, and so on.
_LONGEST_PAUSE_S = 300.0
_READ_TIMEOUT_S = 10.0

Report = Callable[[str], None]


class Following:
    """The runs that are on their way into a tool while they train."""

    def __init__(
        self, target: Target, report: Report, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._target = target
        self._report = report
        self._clock = clock
        self._pause_s = _TICK_S
        self._not_before = 0.0
        self._told = False
        self._tracker: Tracker | None = None
        self._news: set[int] = set()
        self._open: dict[int, Tracked] = {}
        self._senders: dict[int, Sender] = {}

    def look(self, news: Iterable[int] = ()) -> None:
        """Send what is new of the runs that train, and of those that there is news of."""
        self._news |= set(news)
        if self._news:
            self._read()
        elif self._clock() < self._not_before:
            return
        for run in self._open.values():
            self._guarded(run.run.id, partial(self._send, run))
        training = {i: run for i, run in self._open.items() if run.run.state is RunState.RUNNING}
        self._open = training

    def _read(self) -> None:
        """How the runs stand now; what cannot be read now is read at the next look."""
        try:
            with Store.open(home().db, readonly=True, timeout_s=_READ_TIMEOUT_S) as store:
                for run in filter(None, map(partial(_run, store), self._news | {*self._open})):
                    self._open[run.id] = Tracked.of(run, store.queries.sweep_of(run))
        except QueueError as e:
            self._tell(f"the queue cannot be read: {e}")
        else:
            self._news.clear()

    def _send(self, run: Tracked) -> None:
        run_id = run.run.id
        if self._tracker is None:
            self._tracker = self._target.open()
        if run_id not in self._senders:
            self._senders[run_id] = Sender(self._tracker, run)
        self._senders[run_id].send(run)
        if run.run.state is not RunState.RUNNING:
            del self._senders[run_id]

    def _guarded(self, run_id: int, act: Callable[[], object]) -> None:
        """After a fault the next look begins anew with what the tool has of the run."""
        try:
            act()
            self._pause_s = _TICK_S
        # Whatever a library of others raises: the training is not its concern.
        except Exception as e:  # noqa: BLE001
            self._senders.pop(run_id, None)
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
            self._not_before = self._clock() + self._pause_s
            words = " ".join(f"{type(e).__name__}: {e}".split())[:500]
            self._tell(f"{self._target.tool} did not take what was logged: {words}")

    def _tell(self, text: str) -> None:
        if not self._told:
            self._told = True
            self._report(text)

    def close(self) -> None:
        """Send what is left, and close what is open; another worker may go on with it."""
        self.look(self._open)
        for run_id, sender in [*self._senders.items()]:
            self._guarded(run_id, sender.close)


def _run(store: Store, run_id: int) -> Run | None:
    try:
        return store.queries.run(run_id)
    except NothingAffected:  # Removed meanwhile.
        return None


def follow(following: Following, source: int) -> None:
    """Follow the runs that `source`, a file descriptor, names until it ends."""
    buffered, over = b"", False
    while not over:
        ready, _, _ = select.select([source], [], [], _TICK_S)
        if ready:
            read = os.read(source, 4096)
            over = not read
            buffered += read
        *lines, buffered = buffered.split(b"\n")
        following.look(map(int, lines))
    following.close()


def main() -> None:
    """Follow what standard input names."""
    # What libraries print belongs into the log; the output is for what the worker shall say.
    said = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(text: str) -> None:
        print(text, file=said, flush=True)

    [target] = parse_targets(sys.argv[1:])
    follow(Following(target, report), sys.stdin.fileno())


if __name__ == "__main__":
    main()
