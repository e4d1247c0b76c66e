"""One SQLite connection as a queue needs it: our pragmas, immediate transactions, clear errors.

Knows no table. Follows sqlite.org's pages on WAL, on howtocorrupt and on pragmas:

- every write is BEGIN IMMEDIATE: a deferred transaction that reads and then writes fails at once
  with SQLITE_BUSY_SNAPSHOT, whatever the timeout;
- synchronous=FULL, and on macOS fullfsync, because fsync there does not reach the disk: the queue
  writes little, and a lost last commit would run something twice;
- WAL, except on versions with the WAL-reset bug (3.7.0 to 3.51.2, repaired in 3.51.3, 3.50.7 and
  3.44.6), which stay on a rollback journal (TRUNCATE: its commit survives without a folder sync);
- every read fetches all rows: a half-read cursor pins the WAL;
- the database file is opened through SQLite only: closing any other descriptor of it would drop
  this process's locks (POSIX).
"""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import QueueBusy, QueueError
from orchestrator.system.paths import ENV_HOME

TIMEOUT_S = 30.0
MOVED = "moved, deleted or replaced while it was open; nothing more is written there"

Row = sqlite3.Row
Params = Sequence[Any] | dict[str, Any]


def wal_is_safe(version: tuple[int, ...] = sqlite3.sqlite_version_info) -> bool:
    """False for the SQLite versions whose WAL can lose a reset, and with it the database."""
    if version >= (3, 51, 3):
        return True
    return (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


class Connection:
    """A connection; `read` returns whole lists, `write()` is one immediate transaction."""

    def __init__(
        self,
        conn: sqlite3.Connection,
        path: Path,
        timeout_s: float = TIMEOUT_S,
        file: os.stat_result | None = None,
    ) -> None:
        """`file` is what stood at `path` when it was opened; None where there was nothing."""
        self._conn = conn
        self._file = file
        self.path = path
        self.timeout_s = timeout_s
        conn.row_factory = sqlite3.Row

    @property
    def raw(self) -> sqlite3.Connection:
        """The connection itself, for migrations."""
        return self._conn

    @property
    def in_place(self) -> bool:
        """Whether others find at `path` what this connection has open.

        True where that cannot be known: the next statement will say it.
        """
        try:
            return self._file is None or os.path.samestat(self._file, os.stat(self.path))
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError:
            return True

    def read(self, sql: str, params: Params = ()) -> list[Row]:
        """Every row of a query, or of a statement with RETURNING; QueueError."""
        with self.explained():
            try:
                return self._conn.execute(sql, params).fetchall()
            except sqlite3.OperationalError as e:
                if not str(e).startswith("Could not decode to UTF-8"):
                    raise
                # One text that is none must not hide all others.
                self._conn.text_factory = lambda raw: raw.decode(errors="replace")
                return self._conn.execute(sql, params).fetchall()

    def execute(self, sql: str, params: Params = ()) -> int:
        """Run a statement; the number of rows that it changed. QueueError."""
        with self.explained():
            return self._conn.execute(sql, params).rowcount

    def insert(self, sql: str, params: Params = ()) -> int:
        """Run an INSERT; the id of the new row. QueueError."""
        with self.explained():
            return int(self._conn.execute(sql, params).lastrowid or 0)

    def insert_many(self, sql: str, rows: Iterator[Params]) -> None:
        """Run an INSERT for each of `rows`. QueueError."""
        with self.explained():
            self._conn.executemany(sql, rows)

    @contextmanager
    def write(self) -> Iterator[None]:
        """One transaction that holds the write lock from its first moment; QueueError.

        Commits at the end, rolls back when anything is raised, also by the caller.
        """
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.execute("COMMIT")
        # Also at Ctrl-C: a transaction that stays open locks out every other program.
        except BaseException:
            # A full disk or a damaged file has made SQLite roll back by itself.
            if self._conn.in_transaction:
                self._conn.execute("ROLLBACK")
            raise

    @contextmanager
    def patience(self, timeout_s: float) -> Iterator[None]:
        """Within, wait at most so long for other programs that hold the database."""
        before = self.timeout_s
        self._set_timeout(timeout_s)
        try:
            yield
        finally:
            self._set_timeout(before)

    def _set_timeout(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self._conn.execute(f"PRAGMA busy_timeout = {round(timeout_s * 1000)}").fetchall()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Turn what SQLite says about the file into a QueueError that names a way out."""
        try:
            yield
        except sqlite3.DatabaseError as e:
            if word := _explain(e, self.timeout_s):
                raise _kind(e)(f"{self.path}: {word}") from None
            raise

    def close(self) -> None:
        """Close; a transaction that is still open is rolled back."""
        self._conn.close()


def _explain(error: sqlite3.DatabaseError, timeout_s: float) -> str | None:
    # Extended codes read SQLITE_READONLY_DIRECTORY and the like.
    name = getattr(error, "sqlite_errorname", "") or ""
    words = {
        "SQLITE_BUSY": f"locked by another program (waited {timeout_s:g} s); close it, try again",
        "SQLITE_LOCKED": "locked by another program; close it, try again",
        "SQLITE_READONLY_DBMOVED": MOVED,
        "SQLITE_READONLY": "read-only; give yourself write permission on it and on its folder, "
        f"or set {ENV_HOME} to another folder",
        "SQLITE_PERM": f"no permission; set {ENV_HOME} to a folder that you can write to",
        "SQLITE_CANTOPEN": "cannot be opened; look at the permissions of the file and its folder, "
        f"or set {ENV_HOME} to another folder",
        "SQLITE_FULL": "the disk is full; nothing was changed: free some space and try again",
        "SQLITE_IOERR": f"the disk failed ({error}); nothing was changed",
        "SQLITE_CORRUPT": f"damaged ({error}); restore a backup, or move it away and start anew",
        "SQLITE_NOTADB": "not a SQLite database; move it away to start a new queue",
    }
    return next((word for key, word in words.items() if name.startswith(key)), None)


_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_CANTOPEN")


def _kind(error: sqlite3.DatabaseError) -> type[QueueError]:
    """QueueBusy where the same may well succeed later."""
    name = getattr(error, "sqlite_errorname", "") or ""
    return QueueBusy if name.startswith(_PASSING) else QueueError


def connect(path: Path, *, writable: bool = True, timeout_s: float = TIMEOUT_S) -> Connection:
    """Open the database file with our settings; made (0600) when missing and `writable`.

    Raises QueueError when it lies on a network folder or cannot be opened.
    """
    _refuse_network(path)
    if writable:
        _create(path)
        writable = os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)
    file = os.stat(path) if path.exists() else None
    uri = path.absolute().as_uri() + ("?mode=rw" if writable else "?mode=ro")
    try:
        # isolation_level=None: no hidden BEGIN; each transaction is written out.
        raw = sqlite3.connect(uri, uri=True, timeout=timeout_s, isolation_level=None)
    except sqlite3.OperationalError as e:
        raise QueueError(f"{path}: {_explain(e, timeout_s) or e}") from None
    db = Connection(raw, path, timeout_s, file)
    try:
        _configure(db, writable)
    # Also at Ctrl-C: nobody else has this connection to close it.
    except BaseException:
        db.close()
        raise
    return db


def connect_memory() -> Connection:
    """An empty database in memory: what a queue that was never made reads as."""
    return Connection(sqlite3.connect(":memory:", isolation_level=None), Path(":memory:"))


def _create(path: Path) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        return
    except OSError as e:
        raise QueueError(
            f"{path}: cannot be made: {e.strerror}; "
            f"set {ENV_HOME} to a folder that you can write to"
        ) from None


def _configure(db: Connection, writable: bool) -> None:
    db.execute("PRAGMA foreign_keys = ON")
    db.execute("PRAGMA synchronous = FULL")
    if sys.platform == "darwin":
        db.execute("PRAGMA fullfsync = ON")
        db.execute("PRAGMA checkpoint_fullfsync = ON")
    if writable:
        _choose_journal(db)


def _choose_journal(db: Connection) -> None:
    """WAL for a new file where it is safe; a rollback journal otherwise, and once chosen, kept."""
    mode = str(db.read("PRAGMA journal_mode")[0][0])
    new = db.read("PRAGMA page_count")[0][0] == 0
    if wal_is_safe() and (new or mode == "wal"):
        if mode != "wal":
            db.read("PRAGMA journal_mode = WAL")
        return
    try:
        db.raw.execute("PRAGMA journal_mode = TRUNCATE").fetchall()
    except sqlite3.OperationalError:
        # Leaving WAL needs the file for oneself; another program has it open, so it stays for now.
        return


# --- network folders: POSIX locks and shared memory do not hold there

_NETWORK_TYPES = frozenset(
    {"nfs", "nfs4", "cifs", "smb", "smb2", "smb3", "smbfs", "afpfs", "webdav", "9p", "afs"}
    | {"ceph", "glusterfs", "lustre", "beegfs", "macfuse"}
    | {"fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.glusterfs"}
)


def _refuse_network(path: Path) -> None:
    if kind := network_type(path.parent):
        raise QueueError(
            f"{path}: lies on a network folder ({kind}), where SQLite's locks do not hold; "
            f"set {ENV_HOME} to a folder on a local disk"
        )


def network_type(folder: Path) -> str | None:
    """The type of the network file system that holds `folder`; None on a local disk."""
    kind = filesystem_type(folder)
    return kind if kind in _NETWORK_TYPES else None


def filesystem_type(folder: Path) -> str | None:
    """The type of the file system that holds `folder` (ext4, apfs, nfs, ...), if it is known."""
    real = os.path.realpath(folder)
    holding = [(m, kind) for m, kind in _mounts() if _contains(m, real)]
    # The last mount on the longest path wins: it covers the earlier ones.
    longest = max((len(m) for m, _ in holding), default=0)
    return next((kind for m, kind in reversed(holding) if len(m) == longest), None)


def _contains(mount: str, path: str) -> bool:
    return path == mount or path.startswith(mount.rstrip("/") + "/")


def _mounts() -> list[tuple[str, str]]:
    return _linux_mounts() if sys.platform == "linux" else _bsd_mounts()


def _linux_mounts() -> list[tuple[str, str]]:
    try:
        lines = Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    # Blanks in a path are written as \040 (fstab(5)).
    return [(f[1].replace("\\040", " "), f[2]) for f in fields if len(f) > 2]


def _bsd_mounts() -> list[tuple[str, str]]:
    """What `mount` prints on macOS: `DEVICE on PATH (TYPE, flag, ...)`."""
    try:
        printed = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return parse_bsd_mounts(printed.stdout)


def parse_bsd_mounts(text: str) -> list[tuple[str, str]]:
    """(path, type) of each line that macOS' `mount` prints."""
    mounts = []
    for line in text.splitlines():
        head, _, tail = line.rpartition(" (")
        _, on, path = head.partition(" on ")
        if on:
            mounts.append((path, tail.rstrip(")").split(",")[0].strip()))
    return mounts
