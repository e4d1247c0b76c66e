"""What keeps runs from starting although they are queued: a held sweep, or the whole queue halted.

The rows are read back in `queries.py`; `control.py` lifts a hold when a user asks for it:
by its code, since a reason may be reworded at any time.
"""

from orchestrator.queue.connection import Connection
from orchestrator.queue.history import History
from orchestrator.run import HoldCode


class Holds:
    """Holds sweeps and halts the queue."""

    def __init__(self, db: Connection, history: History) -> None:
        self._db = db
        self._history = history

    def hold_sweep(self, sweep_id: int, code: HoldCode, reason: str) -> None:
        """Start no more runs of this sweep, because a limit is used up."""
        with self._db.write():
            self.hold(sweep_id, code, reason)

    def hold(self, sweep_id: int, code: HoldCode, reason: str) -> None:
        """Hold a sweep, inside the transaction of what makes it wait."""
        self._db.execute(
            "UPDATE sweeps SET paused = 1, hold_code = ?, reason = ? WHERE id = ?",
            (str(code), reason, sweep_id),
        )
        self._history.add("held", reason, sweep_id)

    def pause_node(self, node: str, reason: str, boot_id: str) -> None:
        """Let no slot of a node take a run as long as that machine runs, inside a transaction.

        One that the user has paused stays so beyond that.
        """
        self._db.execute(
            "INSERT INTO paused_slots (slot, reason, at, boot_id) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (slot) DO UPDATE SET reason = excluded.reason, at = excluded.at,"
            " boot_id = excluded.boot_id WHERE boot_id IS NOT NULL",
            (node, reason, self._history.stamp(), boot_id),
        )
        self._history.add("paused", f"node {node}: {reason}", None)

    def node_started(self, node: str, boot_id: str) -> None:
        """Lift what held a node until its machine was started anew, if it was."""
        with self._db.write():
            if self._db.execute(
                "DELETE FROM paused_slots WHERE slot = ? AND boot_id <> ?", (node, boot_id)
            ):
                self._history.add("resumed", f"node {node}", None)

    def halt(self, code: HoldCode, reason: str, boot_id: str | None) -> None:
        """Halt the queue, inside a transaction; with `boot_id` as long as the machine runs."""
        self._db.execute(
            "UPDATE queue SET paused = 1, halt_code = ?, reason = ?, boot_id = ? WHERE id = 1",
            (str(code), reason, boot_id),
        )
        self._history.add("halted", reason, None)
