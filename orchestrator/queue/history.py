"""What happened to sweeps and runs, and when: the rows of `events`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from orchestrator.queue.connection import Connection
from orchestrator.run import stamp


@dataclass(frozen=True)
class HistoryEvent:
    """Something that happened to a run: a row of `events`, at an ISO time in UTC."""

    at: str
    kind: str
    text: str


class History:
    """Adds events inside the transaction that changes what they are about, and reads them."""

    def __init__(self, db: Connection, now: Callable[[], datetime]) -> None:
        self._db = db
        self.now = now

    def stamp(self) -> str:
        """The time now, as the database holds it."""
        return stamp(self.now())

    def add(self, kind: str, text: str, sweep_id: int | None, run_id: int | None = None) -> None:
        """Note an event of a run, of a sweep, or (both None) of the whole queue."""
        self._db.execute(
            "INSERT INTO events (at, kind, sweep_id, run_id, text) VALUES (?, ?, ?, ?, ?)",
            (self.stamp(), kind, sweep_id, run_id, text),
        )

    def of_run(self, run_id: int) -> list[HistoryEvent]:
        """Everything that happened to a run, the oldest first."""
        rows = self._db.read(
            "SELECT at, kind, text FROM events WHERE run_id = ? ORDER BY id", (run_id,)
        )
        return [HistoryEvent(*row) for row in rows]
