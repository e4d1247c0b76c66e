"""The queue in one SQLite file: opens it, and hands out the parts that read and change it.

Each part holds all SQL of one purpose, over the one connection: see the attributes of `Store`.
Records are built in `rows.py`, the tables in `schema.py`; what a database needs from SQLite is in
`connection.py`. Opening changes no state: only the worker reconciles.
"""

import os
import sqlite3
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from grpo_core.run.atomic import TEMPORARY, sync, sync_folder
from orchestrator.errors import QueueError, UsageError
from orchestrator.queue import schema
from orchestrator.queue.claims import Claims
from orchestrator.queue.connection import TIMEOUT_S, Connection, connect, connect_memory
from orchestrator.queue.control import Control
from orchestrator.queue.duplicates import Duplicates
from orchestrator.queue.history import History
from orchestrator.queue.holds import Holds
from orchestrator.queue.queries import Queries
from orchestrator.queue.status_queries import StatusQueries
from orchestrator.queue.submitting import Submissions
from orchestrator.system import paths


class Store:
    """An open queue; use it as a context manager.

    `queries` and `status` read. `submissions` adds sweeps and runs, `duplicates` shares results,
    `control` does what users ask for, `holds` makes sweeps wait, `claims` is the worker's, and
    `history` is what happened.
    """

    def __init__(self, db: Connection, now: Callable[[], datetime] | None = None) -> None:
        now = now or (lambda: datetime.now(UTC))
        self._db = db
        self.history = History(db, now)
        self.queries = Queries(db)
        self.status = StatusQueries(db, self.queries, now)
        self.holds = Holds(db, self.history)
        self.control = Control(db, self.queries, self.history, self.holds)
        self.duplicates = Duplicates(db, self.queries)
        self.submissions = Submissions(db, self.queries, self.history, self.duplicates)
        self.claims = Claims(db, self.queries, self.history, self.holds)

    @classmethod
    def open(
        cls, path: Path | None = None, *, readonly: bool = False, timeout_s: float = TIMEOUT_S
    ) -> Self:
        """The queue at `path` (default: the user's), brought up to date; changes no state.

        With `readonly` a missing file is not made and reads as an empty queue. Raises QueueError.
        """
        path = path or paths.home().db
        if readonly and not path.exists():
            db = connect_memory()
            schema.create_in_memory(db)
            return cls(db)
        if not readonly:
            paths.Home(path.parent).make()
        db = connect(path, timeout_s=timeout_s)
        try:
            schema.migrate(db)
        # Also at Ctrl-C: nobody else has this connection to close it.
        except BaseException:
            db.close()
            raise
        return cls(db)

    @property
    def path(self) -> Path:
        """The database file."""
        return self._db.path

    @property
    def in_place(self) -> bool:
        """Whether the database file is still the one that was opened."""
        return self._db.in_place

    def data_version(self) -> int:
        """Changes when another connection has changed the file; costs next to nothing."""
        return int(self._db.read("PRAGMA data_version")[0][0])

    def patience(self, timeout_s: float) -> AbstractContextManager[None]:
        """Within, wait at most so long for other programs that hold the queue."""
        return self._db.patience(timeout_s)

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def backup(self, target: Path) -> None:
        """Write a whole copy of the queue to `target`, which must not exist.

        Safe while others write, unlike copying the file. Raises UsageError, QueueError.
        """
        if target.exists():
            raise UsageError(f"{target}: exists; name a file that does not")
        if not target.parent.is_dir():
            raise UsageError(f"{target}: there is no folder {target.parent}")
        beside = target.with_name(f"{TEMPORARY}{os.getpid()}-{target.name[:50]}")
        try:
            # Made before SQLite fills it, so that nobody else can read it for a moment either.
            os.close(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            self._copy_to(beside)
            _move(beside, target)
            sync_folder(target.parent)
        except FileExistsError:
            raise UsageError(f"{target}: exists; name a file that does not") from None
        except OSError as e:
            raise UsageError(f"{target}: cannot be written: {e.strerror}") from None
        finally:
            beside.unlink(missing_ok=True)

    def _copy_to(self, target: Path) -> None:
        # Not VACUUM INTO: on a connection that only reads it counts generated columns wrongly.
        try:
            with closing(sqlite3.connect(target)) as copy:
                self._db.raw.backup(copy)
        except sqlite3.OperationalError as e:
            # On whose disk it failed SQLite does not say.
            words = f"{self.path}: cannot be copied to {target.parent}: {e}; nothing is left there"
            raise QueueError(words) from None
        fd = os.open(target, os.O_RDWR)
        try:
            sync(fd)
        finally:
            os.close(fd)


def _move(source: Path, target: Path) -> None:
    """Rename a file without replacing another; FileExistsError. Needs no hard links, as exFAT."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        os.replace(source, target)
    except OSError:
        target.unlink()
        raise
