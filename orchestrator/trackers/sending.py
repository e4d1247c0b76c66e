"""Sends runs to a tool: what it does not have yet, and how each run ended.

A run is opened with its first point, when its trainer has written the whole configuration, or with
its end. What the tool has already is not sent again, so one may send as often as one likes.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.run import RunState
from orchestrator.trackers.tracked import PointReader, Session, Tracked, Tracker


class Sender:
    """One run on its way into one tool."""

    def __init__(self, tracker: Tracker, run: Tracked) -> None:
        self._tracker = tracker
        self._run = run
        self._points = PointReader(run)
        self._known = tracker.known(run)
        self._last = self._known.update if self._known else -1
        self._session: Session | None = None

    def send(self, run: Tracked) -> int:
        """Send what is new, and close the run if it does not train; how many points went."""
        self._run = run
        fresh = [point for point in self._points.read(run.ended) if point.update > self._last]
        if fresh or (run.ended and not self._knows_the_end()):
            self._session = self._session or self._tracker.start(run)
            self._session.metrics(fresh)
        if fresh:
            self._last = fresh[-1].update
        if run.run.state is not RunState.RUNNING:
            self.close()
        return len(fresh)

    def _knows_the_end(self) -> bool:
        return self._known is not None and self._known.state == self._run.run.state

    def close(self) -> None:
        """Close the run, if it is open, as what it is now."""
        session, self._session = self._session, None
        if session is not None:
            session.finish(self._run)


@dataclass
class Sent:
    """What an export sent: points of `runs` of all `known` ones."""

    known: int = 0
    runs: int = 0
    points: int = 0


def send_all(tracker: Tracker, runs: Iterable[Tracked]) -> Sent:
    """Send runs that have begun, one after the other."""
    sent = Sent()
    for run in runs:
        sender = Sender(tracker, run)
        points = sender.send(run)
        sender.close()
        sent = Sent(sent.known + 1, sent.runs + bool(points), sent.points + points)
    return sent
