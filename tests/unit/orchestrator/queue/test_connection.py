"""What the queue needs from SQLite, seen through second connections and real broken files."""

import sqlite3

import pytest

from orchestrator.errors import QueueError
from orchestrator.queue.connection import connect, filesystem_type, parse_bsd_mounts, wal_is_safe


@pytest.fixture
def path(tmp_path):
    """A database with one table of one row."""
    db = connect(tmp_path / "queue.db")
    db.execute("CREATE TABLE t (x INTEGER) STRICT")
    db.execute("INSERT INTO t VALUES (1)")
    db.close()
    return tmp_path / "queue.db"


@pytest.mark.parametrize(
    ("version", "safe"),
    [
        ((3, 40, 1), False), ((3, 44, 5), False), ((3, 44, 6), True), ((3, 45, 0), False),
        ((3, 50, 6), False), ((3, 50, 7), True), ((3, 51, 0), False), ((3, 51, 2), False),
        ((3, 51, 3), True), ((3, 53, 1), True),
    ],
)  # fmt: skip
def test_wal_only_where_its_reset_is_repaired(version, safe):
    """sqlite.org: repaired in 3.51.3, back-ported to 3.50.7 and 3.44.6."""
    assert wal_is_safe(version) is safe


def test_settings_of_a_connection(path):
    """Foreign keys, full synchronisation, a long timeout, and a journal that is safe here."""
    db = connect(path)
    settings = {n: db.read(f"PRAGMA {n}")[0][0] for n in ("foreign_keys", "synchronous")}
    assert settings == {"foreign_keys": 1, "synchronous": 2}
    assert db.read("PRAGMA busy_timeout")[0][0] == 30_000
    expected = "wal" if wal_is_safe() else "truncate"
    assert db.read("PRAGMA journal_mode")[0][0] == expected
    db.close()


def test_wal_of_another_program_is_left_where_it_is_not_safe(path, monkeypatch):
    """A file in WAL mode goes back to a rollback journal on a version with the bug."""
    raw = sqlite3.connect(path)
    raw.execute("PRAGMA journal_mode = WAL").fetchall()
    raw.close()
    monkeypatch.setattr("orchestrator.queue.connection.wal_is_safe", lambda: False)
    db = connect(path)
    assert db.read("PRAGMA journal_mode")[0][0] == "truncate"
    db.close()


def test_transaction_is_seen_whole_or_not_at_all(path):
    """A second connection sees nothing of it before the commit, and nothing after an error."""
    db, other = connect(path), connect(path)
    with pytest.raises(KeyError), db.write():
        db.execute("INSERT INTO t VALUES (2)")
        raise KeyError
    assert len(other.read("SELECT * FROM t")) == 1
    with db.write():
        db.execute("INSERT INTO t VALUES (2)")
    assert len(other.read("SELECT * FROM t")) == 2
    db.close()
    other.close()


def test_write_lock_is_held_from_the_first_moment(path):
    """Nobody can write before our first statement (a deferred transaction lets them)."""
    db, other = connect(path), connect(path, timeout_s=0)
    with db.write(), pytest.raises(QueueError, match="locked by another program"):
        other.execute("INSERT INTO t VALUES (9)")
    db.close()
    other.close()


def test_file_is_private(path):
    """Prompts and paths are nobody else's business."""
    assert path.stat().st_mode & 0o777 == 0o600


def test_read_only_file_is_said(path):
    """A file without write permission can be read, and a write says what to do."""
    db = connect(path, writable=False)
    assert len(db.read("SELECT * FROM t")) == 1
    with pytest.raises(QueueError, match=r"queue\.db: read-only.*GRPO_SWEEP_HOME"):
        db.execute("INSERT INTO t VALUES (2)")
    db.close()


def test_file_that_is_no_database_is_said(tmp_path):
    """Garbage is refused, and stays as it is."""
    file = tmp_path / "queue.db"
    file.write_bytes(b"this is not a database, it is a text\n" * 50)
    with pytest.raises(QueueError, match=r"queue\.db: not a SQLite database"):
        connect(file)
    assert file.read_bytes().startswith(b"this is not")


def test_damaged_database_is_said(path):
    """A page of garbage in the middle is told as damage, with a way out."""
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    db = connect(path)
    with pytest.raises(QueueError, match="damaged"):
        db.read("SELECT * FROM t")
    db.close()


def test_missing_folder_is_said(tmp_path):
    """A path that cannot be made names itself and the way out."""
    with pytest.raises(QueueError, match=r"none/queue\.db: cannot be made: No such file"):
        connect(tmp_path / "none" / "queue.db")


def test_full_disk_changes_nothing(path):
    """A transaction that finds no room is rolled back whole, and says so."""
    db = connect(path)
    # The limit in pages makes SQLite answer as on a full disk.
    db.read("PRAGMA max_page_count = 3")
    with pytest.raises(QueueError, match="the disk is full; nothing was changed"), db.write():
        db.execute("INSERT INTO t VALUES (2)")
        db.execute("CREATE TABLE big (x TEXT)")
        db.execute("INSERT INTO big VALUES (?)", ("x" * 100_000,))
    assert [r[0] for r in db.read("SELECT x FROM t")] == [1]
    db.close()


def test_network_folder_is_refused(path, monkeypatch):
    """SQLite's locks do not hold there."""
    monkeypatch.setattr("orchestrator.queue.connection.filesystem_type", lambda folder: "nfs4")
    with pytest.raises(QueueError, match=r"network folder \(nfs4\).*GRPO_SWEEP_HOME"):
        connect(path)


def test_type_of_a_file_system_is_that_of_the_innermost_mount(tmp_path, monkeypatch):
    """The longest mount path that holds the folder counts, the later of two on one path."""
    mounts = [("/", "ext4"), (str(tmp_path / "a"), "nfs"), (str(tmp_path / "a"), "tmpfs")]
    monkeypatch.setattr("orchestrator.queue.connection._mounts", lambda: mounts)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    assert filesystem_type(tmp_path / "a" / "b") == "tmpfs"
    assert filesystem_type(tmp_path / "ab") == "ext4"


def test_mounts_of_macos():
    """Three real lines of mount(8), one path with a blank and a bracket."""
    text = (
        "/dev/disk3s1s1 on / (apfs, sealed, local, read-only, journaled)\n"
        "//me@nas._smb._tcp.local/My Share on /Volumes/My Share (old) (smbfs, nodev, nosuid)\n"
        "map auto_home on /System/Volumes/Data/home (autofs, automounted, nobrowse)\n"
    )
    assert parse_bsd_mounts(text) == [
        ("/", "apfs"),
        ("/Volumes/My Share (old)", "smbfs"),
        ("/System/Volumes/Data/home", "autofs"),
    ]
