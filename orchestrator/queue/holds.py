"""What keeps runs from starting although they are queued: a held sweep, or the whole queue halted.

The rows are read back in `queries.py`; `control.py` lifts a hold when a user asks for it.
"""

from orchestrator.queue.connection import Connection
from orchestrator.queue.history import History


class Holds:
    """Holds sweeps and halts the queue."""

    def __init__(self, db: Connection, history: History) -> None:
        self._db = db
        self._history = history

    def hold_sweep(self, sweep_id: int, reason: str) -> None:
        """Start no more runs of this sweep, because a limit is used up."""
        with self._db.write():
            self.hold(sweep_id, reason)

    def hold(self, sweep_id: int, reason: str) -> None:
        """Hold a sweep, inside the transaction of what makes it wait."""
        self._db.execute(
            "UPDATE sweeps SET paused = 1, reason = ? WHERE id = ?", (reason, sweep_id)
        )
        self._history.add("held", reason, sweep_id)

    def halt(self, reason: str, boot_id: str | None) -> None:
        """Halt the queue, inside a transaction; with `boot_id` as long as the machine runs."""
        self._db.execute(
            "UPDATE queue SET paused = 1, reason = ?, boot_id = ? WHERE id = 1", (reason, boot_id)
        )
        self._history.add("halted", reason, None)
