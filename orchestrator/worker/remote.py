"""The trainer of an attempt on another machine, as the worker sees every trainer.

First the node gets the files that it lacks, then the order; from then on it is looked at, and what
it writes is copied here. The attempt has ended once the node says so and everything is here. A node
that does not answer is waited for, and then its run is given away: no fault of the run. Whatever
the node does later comes with a token that nobody wants any more.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from orchestrator.text import duration
from orchestrator.worker.mirror import Mirror
from orchestrator.worker.nodes import (
    PIECE_BYTES,
    AttemptReport,
    Input,
    Node,
    NodeAway,
    NodeRefused,
    Wish,
)
from orchestrator.worker.order import Outgoing

# How often it is looked at, and at the latest while much is copied.
_LOOK_S = 0.5
_COPY_S = 5.0
# How long until a node that did not answer is asked again.
_RETRY_S = 1.0
# No two misses count as more than that: this process may have stood still meanwhile.
_GAP_S = 60.0
# A node that refuses so often in a row has lost the attempt.
_REFUSALS = 5
# What a system may say of a process, each below that.
_BELOW = {"pid": 2**31, "exit_code": 256, "signal": 128}
# Two times by the node's clock that are no further apart are the same.
_SAME_S = 1.0


@dataclass(frozen=True)
class Reach:
    """How a node is reached, and what the worker is told of it."""

    name: str
    node: Callable[[], Node]
    """The node, while it is there; NodeAway."""
    away_s: float
    """How long it may not answer."""
    tell: Callable[[str], None]
    forget: Callable[[str], None]
    """Let it forget an attempt, now or when it comes back."""
    started: Callable[[int], bool]
    """Record the pid of its trainer; False: it is to be tried again."""


class RemoteTrainer:
    """A `Trainer` on a node, and what the monitor sees of it there."""

    def __init__(
        self, reach: Reach, token: str, mirror: Mirror, outgoing: Outgoing | None, begun: bool
    ) -> None:
        """Without `outgoing` the node has the order of a worker before, if it was `begun`."""
        self._reach = reach
        self._token = token
        self._mirror = mirror
        self._outgoing = outgoing
        self._begun = begun
        self._lacking: deque[Input] | None = None
        self._offset = 0
        self._wishes: list[Wish] = []
        self._killed = False
        self._report: AttemptReport | None = None
        self._copying: Iterator[None] | None = None
        self._looked = 0.0
        self._due = 0.0
        self._missed: float | None = None
        self._away_s = 0.0
        self._refusals = 0
        self._fault = ""
        self._changed = 0.0
        self._recorded = False
        self._ended = False
        self.pid: int | None = None
        self.exit_code: int | None = None
        self.signal: int | None = None
        self.excuse: str | None = None
        """Why the attempt ended through no fault of the run's, if so."""
        self.lost: str | None = None
        """Why nobody knows how it ended, if so."""
        self.refused = False
        """Whether the node would not take it."""

    # --- as Trainer

    def wait(self, timeout_s: float) -> bool:
        """See Trainer: does what is to be done meanwhile, and takes at most a call longer."""
        deadline = time.monotonic() + timeout_s
        while not self._ended:
            now = time.monotonic()
            if now >= self._due:
                self._go_on()
            elif (left := min(deadline, self._due) - now) > 0:
                time.sleep(left)
            if time.monotonic() >= deadline:
                break
        return self._ended

    def interrupt(self) -> None:
        """See Trainer."""
        self._wish(Wish.INTERRUPT)

    def terminate(self) -> None:
        """See Trainer."""
        self._wish(Wish.TERMINATE)

    def kill(self) -> None:
        """See Trainer; a node that does not answer is not waited for any longer."""
        self._wish(Wish.KILL)
        self._killed = True

    def keep(self) -> None:
        """See Trainer: its lock is the node's."""

    def close(self) -> None:
        """See Trainer: its files are here."""
        self._reach.forget(self._token)

    # --- as Sight

    from_start = False

    @property
    def is_away(self) -> bool:
        """Whether its node does not answer."""
        return self._missed is not None

    def waits(self) -> bool:
        """See Sight."""
        return self.is_away or self._report is None

    def signs(self) -> object:
        """See Sight: by the clock of its node."""
        if self._report is not None:
            changed = self._report.age_s - self._report.quiet_s
            if abs(changed - self._changed) > _SAME_S:
                self._changed = changed
        return self._changed

    def is_stopped(self) -> bool:
        """See Sight: a node does not tell."""
        return False

    def look(self) -> None:
        """See Sight: its node does that."""

    def evidence(self) -> str | None:
        """See Sight."""
        return None if self._report is None else self._report.memory

    def others(self, ours: Collection[int]) -> str:
        """See Sight: a node does not tell."""
        return ""

    def low_memory(self) -> str | None:
        """See Sight: a node does not tell."""
        return None

    # --- inside

    def _wish(self, wish: Wish) -> None:
        self._wishes.append(wish)
        self._due = 0.0

    def _go_on(self) -> None:
        try:
            self._send() if self._outgoing is not None else self._follow()
        except NodeAway as e:
            self._miss(str(e))
        except NodeRefused as e:
            self._hear_refusal(str(e))
        except OSError as e:
            # A full disk here, maybe: the files wait on the node.
            self._say(f"{e.filename or self._reach.name}: {e.strerror}; tried again until it can")
            self._copying = None
            self._due = time.monotonic() + _RETRY_S
        else:
            self._answered()

    def _answered(self) -> None:
        if self.is_away:
            self._missed, self._away_s = None, 0.0
            self._reach.tell(f"{self._reach.name} answers again")

    def _send(self) -> None:
        """One more piece of a file that the node lacks; then the order."""
        assert self._outgoing is not None
        if self._wishes and not self._begun:
            self._end(f"stopped before it had begun on {self._reach.name}")
            return
        node, order = self._reach.node(), self._outgoing.order
        if self._lacking is None:
            self._lacking = deque(node.lacks((*order.inputs, *order.files)))
        elif self._lacking:
            self._send_piece(node, self._lacking)
        else:
            # Whether it has come is not known any more if no answer comes.
            self._begun = True
            node.start(order)
            self._outgoing = None

    def _send_piece(self, node: Node, lacking: deque[Input]) -> None:
        assert self._outgoing is not None
        file = lacking[0]
        path = self._outgoing.sources[file.sha256]
        try:
            with open(path, "rb") as source:
                source.seek(self._offset)
                data = source.read(PIECE_BYTES)
        except OSError as e:
            raise NodeRefused(f"{path}: {e.strerror}") from None
        node.put(file, self._offset, data)
        self._offset += len(data)
        if self._offset >= file.size or not data:
            lacking.popleft()
            self._offset = 0

    def _follow(self) -> None:
        node = self._reach.node()
        while self._wishes:
            node.ask(self._token, self._wishes[0])
            del self._wishes[0]
        if self._copying is None:
            self._look(node)
        elif next(self._copying, self) is self:
            self._copied()
        elif time.monotonic() - self._looked > _COPY_S and self._runs():
            # The logs first, then what is left of a large file.
            self._copying = None

    def _runs(self) -> bool:
        return self._report is None or self._report.running

    def _look(self, node: Node) -> None:
        self._looked = time.monotonic()
        report = node.look(self._token)
        _check(report, self._reach.name)
        self._report = report
        if report.running:
            # It is known there: a file that cannot be read may have been deleted meanwhile.
            self._refusals = 0
        self.pid = report.pid
        if report.pid is not None and not self._recorded:
            self._recorded = self._reach.started(report.pid)
        self._copying = self._mirror.copy(report, self._read)

    def _read(self, path: str, offset: int, size: int) -> bytes:
        return self._reach.node().read(self._token, path, offset, size)

    def _copied(self) -> None:
        """Everything is here that was there at the last look."""
        self._copying = None
        self._refusals = 0
        self._due = self._looked + _LOOK_S
        report = self._report
        if report is not None and not report.running:
            self.exit_code, self.signal = report.exit_code, report.signal
            self._ended = True

    def _miss(self, why: str) -> None:
        """The node did not answer."""
        now = time.monotonic()
        self._copying = None
        self._due = now + _RETRY_S
        if self._missed is None:
            limit = duration(self._reach.away_s)
            self._reach.tell(f"{why}; its run is given away unless it answers within {limit}")
        else:
            self._away_s += min(now - self._missed, _GAP_S)
        self._missed = now
        if self._killed:
            self._end(f"{self._reach.name} did not answer: left to itself there")
        elif self._away_s >= self._reach.away_s:
            after = duration(self._away_s)
            self._end(f"{self._reach.name} has not answered for {after}: its run is given away")

    def _hear_refusal(self, why: str) -> None:
        self._answered()
        if self._outgoing is not None:
            self.refused = True
            self._end(why)
            return
        self._copying = None
        self._due = time.monotonic() + _RETRY_S
        self._refusals += 1
        if self._refusals < _REFUSALS:
            return
        if self._begun:
            self.lost, self._ended = why, True
        else:
            self._end(f"the worker died before {self._reach.name} had its order")

    def _end(self, excuse: str) -> None:
        self.excuse, self._ended = excuse, True

    def _say(self, text: str) -> None:
        if text != self._fault:
            self._fault = text
            self._reach.tell(text)


def _check(report: AttemptReport, name: str) -> None:
    """NodeRefused for what no system says of a process: the database may be unable to hold it."""
    for what, below in _BELOW.items():
        value = getattr(report, what)
        if value is not None and not 0 <= value < below:
            raise NodeRefused(f"{name} says {what} {value}: that is none")
