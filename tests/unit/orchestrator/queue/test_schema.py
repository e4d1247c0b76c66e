"""Migrations and the rules that the tables themselves enforce."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from orchestrator.errors import QueueError
from orchestrator.queue import schema
from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from tests.queue_kit import TESTS, planned, submit


@pytest.fixture
def raw(tmp_path):
    """A plain connection to a queue that holds one sweep of two runs."""
    submit(tmp_path, planned("a"), planned("b"))
    with Store.open() as store:
        connection = sqlite3.connect(store.path)
    yield connection
    connection.close()


_OPEN = "from orchestrator.queue.store import Store; print(len(Store.open().queries.sweeps()))"


def test_eight_processes_may_make_the_database_at_once():
    """Nobody meets a half-made table or a lock that is not waited for."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN], cwd=TESTS.parent, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    assert [p.communicate(timeout=60)[0] for p in processes] == ["0\n"] * 8


def test_opening_a_current_database_does_not_import_sqlite_utils(raw):
    """It takes 0.6 s where pandas is installed: only a pending migration may."""
    code = f"import sys; {_OPEN}; assert 'sqlite_utils' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=TESTS.parent, check=True, timeout=60)


def test_newer_database_is_refused_and_left_alone(raw):
    """The word says both versions and what to do."""
    raw.execute("PRAGMA user_version = 99")
    with pytest.raises(QueueError, match=r"newer grpo-sweep \(schema 99, this one knows \d+\)"):
        Store.open()
    assert raw.execute("PRAGMA user_version").fetchone() == (99,)
    assert raw.execute("SELECT count(*) FROM runs").fetchone() == (2,)


def test_database_of_another_program_is_refused(tmp_path):
    """A SQLite file with other tables is no queue."""
    other = sqlite3.connect(tmp_path / "queue.db")
    other.execute("CREATE TABLE songs (title TEXT)")
    other.commit()
    other.close()
    with pytest.raises(QueueError, match="a database of another program"):
        Store.open(tmp_path / "queue.db")


def test_failed_migration_leaves_nothing(tmp_path, monkeypatch):
    """A migration is applied whole or not at all."""
    broken = (*schema.MIGRATIONS, ("m_broken", ("CREATE TABLE half (x)", "CREATE NONSENSE")))
    monkeypatch.setattr(schema, "MIGRATIONS", broken)
    monkeypatch.setattr(schema, "VERSION", len(broken))
    db = connect(tmp_path / "queue.db")
    with pytest.raises(sqlite3.OperationalError):
        schema.migrate(db)
    assert db.read("SELECT * FROM sqlite_master") == []
    db.close()


def test_next_migration_keeps_the_data(tmp_path, raw, monkeypatch):
    """An old database opens with a newer program, everything in it as it was."""
    newer = (*schema.MIGRATIONS, ("m_next", ("ALTER TABLE runs ADD COLUMN note TEXT",)))
    monkeypatch.setattr(schema, "MIGRATIONS", newer)
    monkeypatch.setattr(schema, "VERSION", len(newer))
    with Store.open() as store:
        assert [run.name for run in store.queries.runs()] == ["a", "b"]
    assert raw.execute("SELECT note FROM runs").fetchall() == [(None,), (None,)]


@pytest.mark.parametrize("file", sorted((TESTS / "fixtures").glob("queue-v*.db")), ids=str)
def test_database_of_every_past_schema_opens(file, tmp_path):
    """Old databases always open; what they hold can be read."""
    (tmp_path / "queue.db").write_bytes(Path(file).read_bytes())
    with Store.open(tmp_path / "queue.db") as store:
        (sweep,) = store.queries.sweeps(all=True)
        assert (sweep.name, len(store.queries.runs(sweep.id))) == ("old", 4)
        assert store.queries.attempts(1)[0].outcome == "completed"


def test_there_is_a_fixture_of_every_schema():
    """A new version needs the database of the one before, made by tests/make_fixture.py."""
    made = {file.name for file in (TESTS / "fixtures").glob("queue-v*.db")}
    assert made == {f"queue-v{n}.db" for n in range(1, schema.VERSION + 1)}


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE runs SET state = 'done'",
        "UPDATE runs SET state = 'running'",
        "UPDATE runs SET position = 'first'",
        "UPDATE runs SET overrides = '{'",
        "UPDATE runs SET folder = '/same'",
        "UPDATE sweeps SET goal = 'best'",
        "INSERT INTO queue (id) VALUES (2)",
    ],
)
def test_tables_refuse_what_may_not_be(raw, sql):
    """Unknown states, two running runs, other types, broken JSON, a shared folder."""
    with pytest.raises(sqlite3.IntegrityError):
        raw.execute(sql)


def test_leaderboard_ranks_by_the_objective_in_its_direction(raw):
    """The highest value first, equal ones share a rank; the lowest where less is better."""
    raw.execute("UPDATE runs SET value = 10 * id, state = 'completed'")
    ranks = "SELECT run, rank FROM leaderboard ORDER BY run"
    assert raw.execute(ranks).fetchall() == [(1, 2), (2, 1)]
    raw.execute("UPDATE sweeps SET goal = 'min'")
    assert raw.execute(ranks).fetchall() == [(1, 1), (2, 2)]
    raw.execute("UPDATE runs SET value = 5")
    assert raw.execute(ranks).fetchall() == [(1, 1), (2, 1)]
    raw.rollback()


@pytest.mark.parametrize("state", ["pruned", "failed", "paused", "queued"])
def test_leaderboard_holds_completed_runs_only(raw, state):
    """What another had reached when it was ended is in runs_view: `best` ranks it neither."""
    raw.execute("UPDATE runs SET value = 10 * id, state = iif(id = 1, 'completed', ?)", (state,))
    assert raw.execute("SELECT run, rank FROM leaderboard").fetchall() == [(1, 1)]
    assert raw.execute("SELECT id, value FROM runs_view").fetchall() == [(1, 10.0), (2, 20.0)]
    raw.rollback()


def test_views_are_there_for_other_tools(raw):
    """runs_view, attempts_view and leaderboard, with stable columns."""
    columns = {
        name: [c[0] for c in raw.execute(f"SELECT * FROM {name}").description]
        for name in ("runs_view", "attempts_view", "leaderboard")
    }
    assert columns["runs_view"][:4] == ["id", "sweep", "name", "state"]
    assert columns["attempts_view"][:4] == ["run", "sweep", "name", "n"]
    assert columns["leaderboard"][:4] == ["sweep", "rank", "run", "name"]


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("limits.wall: 3600 s trained; resume lifts the limit", "wall"),
        ("limits.disk: 41 GB written; resume lifts the limit", "disk"),
        ("frozen: data.jsonl has changed; resume accepts what has changed", "changed"),
        ("search: params.learning_rate: no", "search"),
        ("3 failures in a row: oom; the last is run 7", "failures"),
        ("paused", "user"),
        ("I need the machine", "user"),
    ],
)
def test_holds_of_an_old_database_get_their_codes(tmp_path, reason, code):
    """Before version 5 the sentence was all that said what held a sweep."""
    (tmp_path / "queue.db").write_bytes((TESTS / "fixtures" / "queue-v4.db").read_bytes())
    old = sqlite3.connect(tmp_path / "queue.db")
    old.execute("UPDATE sweeps SET paused = 1, reason = ?", (reason,))
    old.execute("UPDATE queue SET paused = 1, reason = 'the GPU hangs', boot_id = 'boot'")
    old.commit()
    old.close()
    with Store.open(tmp_path / "queue.db") as store:
        assert store.queries.sweep("old").hold_code == code
        assert store.queries.halt_code("boot") == "gpu_hang"


@pytest.mark.parametrize(
    ("state", "reason", "code"),
    [
        (
            "pruned",
            "median: em 10.0% at best, 40.0% is the median of 3 runs at update 12",
            "median",
        ),
        ("pruned", "halving: em 10.0% at 30% of the run; the best 1 of 2 ... (rung 1)", "halving"),
        ("pruned", "health: kl > 0.5 for 5 (held for 5 updates, up to 30)", "health"),
        ("failed", "health: nan for 3 (held for 3 updates, up to 30)", "not_finite"),
        ("failed", "out of memory", None),
        ("completed", "median: of somebody else's", None),
    ],
)
def test_runs_of_an_old_database_get_the_rule_that_ended_them(tmp_path, state, reason, code):
    """Before version 7 the sentence was all that said which rule it was."""
    (tmp_path / "queue.db").write_bytes((TESTS / "fixtures" / "queue-v6.db").read_bytes())
    with closing(sqlite3.connect(tmp_path / "queue.db")) as old, old:
        old.execute("UPDATE runs SET state = ?, reason = ? WHERE id = 1", (state, reason))
    with Store.open(tmp_path / "queue.db") as store:
        assert store.queries.run(1).stop_code == code
        assert store._db.read("SELECT stop_code FROM runs_view WHERE id = 1")[0][0] == code
