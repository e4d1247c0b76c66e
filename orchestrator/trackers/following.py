"""Sends the runs that a worker trains to the tools outside while they train; a process of its own.

    python -m orchestrator.trackers.following TOOL=PLACE ...

Its input names the runs that the worker began or ended, a number a line; its end is the worker's.
What goes wrong is a line of its output, once a tool: the worker says it and goes on. A tool that
failed gets the rest at the next run, or by `export`.
"""

import os
import select
import sys
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
_READ_TIMEOUT_S = 10.0

Report = Callable[[str], None]


class _Tool:
    """One tool, and the runs that are on their way into it."""

    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._tracker: Tracker | None = None
        self._senders: dict[int, Sender] = {}
        self._told = False

    def send(self, run: Tracked) -> None:
        """Send what is new of a run; after a fault the next look begins with it anew."""
        self._guarded(run.run.id, lambda: self._sender(run).send(run))
        if run.run.state is not RunState.RUNNING:
            self._senders.pop(run.run.id, None)

    def _sender(self, run: Tracked) -> Sender:
        if self._tracker is None:
            self._tracker = self._target.open()
        if run.run.id not in self._senders:
            self._senders[run.run.id] = Sender(self._tracker, run)
        return self._senders[run.run.id]

    def close(self) -> None:
        """Close what is open; another worker may go on with it."""
        for run_id, sender in [*self._senders.items()]:
            self._guarded(run_id, sender.close)

    def _guarded(self, run_id: int, act: Callable[[], object]) -> None:
        try:
            act()
        # Whatever a library of others raises: the training is not its concern.
        except Exception as e:  # noqa: BLE001
            self._senders.pop(run_id, None)
            if not self._told:
                self._told = True
                words = " ".join(f"{type(e).__name__}: {e}".split())[:500]
                self._report(f"{self._target.tool} did not take what was logged: {words}")


class Following:
    """The runs that are followed, and the tools that get them."""

    def __init__(self, targets: Iterable[Target], report: Report) -> None:
        self._report = report
        self._tools = [_Tool(target, report) for target in targets]
        self._news: set[int] = set()
        self._open: dict[int, Tracked] = {}

    def look(self, news: Iterable[int] = ()) -> None:
        """Send what is new of the runs that train, and of those that there is news of."""
        self._news |= set(news)
        if self._news:
            self._read()
        for run in self._open.values():
            for tool in self._tools:
                tool.send(run)
        training = {i: run for i, run in self._open.items() if run.run.state is RunState.RUNNING}
        self._open = training

    def _read(self) -> None:
        """How the runs stand now; what cannot be read now is read at the next look."""
        try:
            with Store.open(home().db, readonly=True, timeout_s=_READ_TIMEOUT_S) as store:
                for run in filter(None, map(partial(_run, store), self._news | {*self._open})):
                    self._open[run.id] = Tracked.of(run, store.queries.sweep_of(run))
        except QueueError as e:
            self._report(f"the queue cannot be read: {e}")
        else:
            self._news.clear()

    def close(self) -> None:
        """Send what is left, and close what is open."""
        self.look(self._open)
        for tool in self._tools:
            tool.close()


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

    follow(Following(parse_targets(sys.argv[1:]), report), sys.stdin.fileno())


if __name__ == "__main__":
    main()
