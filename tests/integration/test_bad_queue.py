"""A queue that cannot be used, or cannot do what is asked: one message, exit code, no change."""

import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.queue import store as queue_store
from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.worker.worker import work
from tests.queue_kit import FAKE, TESTS, planned, runs, states, submit

NOBODY = 65534
SPEC = 'config = "base.toml"\n[params]\nlearning_rate = [1e-5, 1e-4]\n'


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A queue with a sweep of three runs, and a spec of another."""
    (tmp_path / "base.toml").write_text('model_name = "builtin/tiny"\n')
    (tmp_path / "lr.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    return tmp_path


@pytest.fixture
def say(capfd, folder):
    """Run a command: (exit code, the one line of its message)."""

    def run(*args):
        capfd.readouterr()
        code = main(list(args))
        err = capfd.readouterr().err
        assert "Traceback" not in err
        return code, err

    return run


def content():
    """Every row of the queue."""
    raw = sqlite3.connect(home().db)
    rows = {t: raw.execute(f"SELECT * FROM {t}").fetchall() for t in ("sweeps", "runs", "events")}
    raw.close()
    return rows


WRITES = [["submit", "lr.toml"], ["cancel", "1"], ["work", "--until-empty"], ["rm", "1"]]
READS = [["status"], ["show", "1"], ["status", "--json"]]


@pytest.mark.parametrize("args", [*WRITES, *READS, ["backup", "copy.db"]], ids=" ".join)
@pytest.mark.parametrize("damage", ["garbage", "torn", "newer", "foreign"])
def test_a_database_that_cannot_be_read_is_left_alone(say, args, damage):
    """Exit 2, its path and a way out; not a byte of it changes."""
    db = home().db
    raw = sqlite3.connect(db)
    raw.execute("PRAGMA journal_mode = DELETE").fetchall()
    if damage == "newer":
        raw.execute("PRAGMA user_version = 99")
    raw.close()
    if damage == "garbage":
        db.write_bytes(b"no database\n" * 500)
    if damage == "torn":
        with open(db, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (db.stat().st_size - 4096))
    if damage == "foreign":
        db.unlink()
        raw = sqlite3.connect(db)
        raw.execute("CREATE TABLE songs (title TEXT)")
        raw.close()
    before = db.read_bytes()
    code, err = say(*args)
    assert code == 2
    assert str(db) in err
    way_out = {
        "garbage": "move it away",
        "torn": "restore a backup",
        "newer": "upgrade with",
        "foreign": "a database of another program",
    }[damage]
    assert way_out in err
    assert db.read_bytes() == before


@pytest.mark.parametrize("args", [w for w in WRITES if w[0] != "work"], ids=" ".join)
def test_a_queue_locked_by_another_program_is_said(say, args, monkeypatch):
    """After the wait: exit 2, and nothing has changed. Who reads is not held up.

    A worker waits instead: see test_busy_queue.py.
    """
    monkeypatch.setattr(Store, "open", functools.partial(Store.open, timeout_s=0.05))
    before = content()
    other = sqlite3.connect(home().db)
    other.execute("BEGIN IMMEDIATE")
    code, err = say(*args)
    assert code == 2
    assert "locked by another program (waited 0.05 s)" in err
    assert say("status")[0] == 0
    other.rollback()
    other.close()
    assert content() == before


def test_a_full_disk_queues_nothing(say, folder, monkeypatch):
    """All of a sweep or nothing: exit 2, and the queue as it was."""
    connect = queue_store.connect

    def on_a_full_disk(*args, **kwargs):
        db = connect(*args, **kwargs)
        pages = db.read("PRAGMA page_count")[0][0]
        db.read(f"PRAGMA max_page_count = {pages}")
        return db

    (folder / "lr.toml").write_text(f'config = "base.toml"\nseeds = {list(range(500))}\n')
    before = content()
    with monkeypatch.context() as patch:
        patch.setattr(queue_store, "connect", on_a_full_disk)
        code, err = say("submit", "lr.toml")
    assert (code, "the disk is full; nothing was changed" in err) == (2, True)
    assert content() == before


# Everything is loaded by a dry run before the rights are given up: the checkout and Python's own
# modules may be nobody's to read.
_AS_NOBODY = f"""
import contextlib, io, os, sys
import orchestrator.worker.worker, sqlite_utils
from orchestrator.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    main(["submit", "lr.toml", "--dry-run"])
    main(["status"])
import orchestrator.cli.control, orchestrator.plan.provenance
orchestrator.plan.provenance.look(".", [])
if os.geteuid() == 0:
    os.setgid({NOBODY})
    os.setuid({NOBODY})
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def public(folder, monkeypatch):
    """A copy of the folder, with the queue in `home`, that every user may enter."""
    place = Path(tempfile.mkdtemp())
    shutil.copytree(folder, place / "work")
    (place / "work" / "outputs").mkdir(exist_ok=True)
    shutil.copytree(home().root, place / "home")
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (place / "work" / "outputs").chmod(0o777)
    monkeypatch.setenv("GRPO_SWEEP_HOME", str(place / "home"))
    yield place
    for path in (place, *place.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.rmtree(place)


def as_nobody(place, *args):
    """A command by somebody who may read all of it and write none: (exit code, out, err)."""
    if os.geteuid() != 0:
        for path in (place / "home", *(place / "home").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    done = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY, *args],
        cwd=place / "work",
        env={**os.environ, "PYTHONPATH": str(TESTS.parent)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("args", [["submit", "lr.toml"], ["cancel", "1"]], ids=" ".join)
def test_a_queue_that_may_only_be_read_is_read(public, args):
    """`status` shows it; a change exits with 2, says what to do, and changes nothing."""
    before = content()
    code, out, _ = as_nobody(public, "status")
    assert (code, "3 queued" in out) == (0, True)
    code, _, err = as_nobody(public, *args)
    assert code == 2
    assert "queue.db: read-only" in err
    assert "GRPO_SWEEP_HOME" in err
    assert content() == before


def test_a_home_that_cannot_be_made_is_said(public, monkeypatch):
    """Exit 2 with the folder and the variable that names another; nothing is made."""
    monkeypatch.setenv("GRPO_SWEEP_HOME", str(public / "home" / "none"))
    code, _, err = as_nobody(public, "submit", "lr.toml")
    assert code == 2
    assert f"{public}/home/none: the queue's home cannot be made: Permission denied" in err
    assert "set GRPO_SWEEP_HOME" in err
    assert not (public / "home" / "none").exists()
    assert as_nobody(public, "status")[0] == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["cancel", "1"], "run 1 is completed"),
        (["pause", "1"], "run 1 is completed"),
        (["resume", "2"], "run 2 is queued"),
        (["retry", "2"], "run 2 is queued"),
        (["move", "1", "--first"], "run 1 is completed"),
        (["cancel", "99"], "run 99: no such run"),
        (["rm", "98-99"], "98-99: no run has an id in this range"),
        (["pause", "nonsense"], "nonsense: no such sweep"),
        (["resume", "s"], "sweep s is not paused"),
        (["resume", "--queue"], "the queue is not paused"),
        (["show", "99"], "run 99: no such run"),
        (["submit", "lr.toml", "--after", "nonsense"], "nonsense: no such sweep"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_not_there_or_not_legal_changes_nothing(say, args, words):
    """Exit 3, and the reason."""
    raw = sqlite3.connect(home().db)
    raw.execute("UPDATE runs SET state = 'completed' WHERE id = 1")
    raw.commit()
    raw.close()
    before = content()
    code, err = say(*args)
    assert (code, words in err) == (3, True), err
    assert content() == before
    assert len(runs()) == len(states()) == 3


ROTTEN = [
    *("reason = CAST(x'ff41' AS TEXT)", "name = CAST(x'ff41' AS TEXT)", "metrics = '[1]'"),
    *("overrides = '[]'", "tags = '5'", "set_args = 'null'", "request = 'rotten'"),
    *("overrides = 'no JSON'", "metrics = '{'", "tags = ''"),
]
ROTTEN_SWEEPS = [
    *(
        "limits = '{'",
        "limits = '[]'",
        "limits = '{\"x\": 1}'",
        "search = '{\"x\": 1}'",
        "retry = '{}'",
    ),
    *("hold_code = 'x'", "provenance = '5'", "stop = '[]'"),
]


@pytest.mark.parametrize(
    "change",
    [f"runs SET {c} WHERE id = 2" for c in ROTTEN] + [f"sweeps SET {c}" for c in ROTTEN_SWEEPS],
)
def test_one_rotten_row_does_not_hide_the_others(say, capfd, change):
    """All else is shown; what is damaged is named, and nothing is trained by it."""
    with closing(sqlite3.connect(home().db)) as other, other:
        # As a program that is older than the constraint, or does not know it.
        other.execute("PRAGMA ignore_check_constraints = ON")
        other.execute(f"UPDATE {change}")
    reads = (["status"], ["status", "s"], ["show", "2"], ["show", "1"], ["status", "--json"])
    for words in (*reads, ["status", "s", "--by", "seed"]):
        code, err = say(*words)
        assert code == 0, err
    table, column = change.split(" ")[0], change.split(" SET ")[1].split(" =")[0]
    if column in ("reason", "name"):
        return
    if table == "runs":
        main(["show", "2"])
        assert f"its row in the queue is damaged: {column}" in capfd.readouterr().out
    if column == "request":  # Of an earlier attempt: the next one forgets it.
        return
    assert work(until_empty=True, trainer=FAKE, prewarm=False) == 0
    failed = [run.id for run in runs() if run.state == "failed"]
    assert failed == ([2] if table == "runs" else [1, 2, 3])
    with Store.open(readonly=True) as store:
        assert store.queries.attempts(2)[0].reason == f"its row in the queue is damaged: {column}"
