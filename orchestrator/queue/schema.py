"""The tables of the queue and the migrations that lead to them; the data stays, old files open.

A database is brought up to date in one immediate transaction that looks at the version again once
it holds the lock, so that two processes may try at once. `PRAGMA user_version` is looked at first,
through plain sqlite3: sqlite-utils (whose Migrations keep the record of what was applied, visible
to its own tools) takes 0.6 s to import where pandas is installed, and is needed only when a
migration is pending. Later migrations only add (tables, columns, triggers); views and indexes may
be replaced.
"""

import sqlite3
from collections.abc import Callable, Iterable
from typing import Any

from orchestrator.errors import QueueError
from orchestrator.queue.connection import Connection
from orchestrator.queue.kinds import kind_sql

# "gswp": so that another program's database is recognised (PRAGMA application_id).
APPLICATION_ID = 0x67737770

_INITIAL = (
    """
    CREATE TABLE sweeps (
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        name          TEXT NOT NULL UNIQUE,
        priority      INTEGER NOT NULL DEFAULT 0,
        paused        INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
        reason        TEXT,
        after_id      INTEGER REFERENCES sweeps (id) ON DELETE SET NULL,
        config_text   TEXT NOT NULL,
        config_source TEXT NOT NULL,
        spec_text     TEXT NOT NULL,
        cwd           TEXT NOT NULL,
        metric        TEXT NOT NULL,
        goal          TEXT NOT NULL CHECK (goal IN ('max', 'min')),
        reduce        TEXT NOT NULL,
        limits        TEXT NOT NULL CHECK (json_valid(limits)),
        retry         TEXT NOT NULL CHECK (json_valid(retry)),
        provenance    TEXT CHECK (provenance IS NULL OR json_valid(provenance)),
        fail_verdict  TEXT,
        fail_streak   INTEGER NOT NULL DEFAULT 0,
        created       TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE runs (
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        sweep_id      INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
        position      INTEGER NOT NULL,
        priority      INTEGER NOT NULL DEFAULT 0,
        name          TEXT NOT NULL,
        state         TEXT NOT NULL DEFAULT 'queued' CHECK (state IN
            ('queued', 'running', 'paused', 'completed', 'pruned', 'failed', 'cancelled')),
        reason        TEXT,
        request       TEXT,
        seed          INTEGER,
        overrides     TEXT NOT NULL CHECK (json_valid(overrides)),
        set_args      TEXT NOT NULL CHECK (json_valid(set_args)),
        output_dir    TEXT NOT NULL,
        folder        TEXT NOT NULL,
        tags          TEXT NOT NULL CHECK (json_valid(tags)),
        hash          TEXT,
        attempt       INTEGER NOT NULL DEFAULT 0,
        deaths        INTEGER NOT NULL DEFAULT 0,
        not_before    TEXT,
        "update"      INTEGER,
        updates_total INTEGER,
        metrics       TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(metrics)),
        value         REAL,
        wall_s        REAL NOT NULL DEFAULT 0,
        exit_code     INTEGER,
        created       TEXT NOT NULL,
        started       TEXT,
        ended         TEXT,
        UNIQUE (sweep_id, position)
    ) STRICT
    """,
    """
    CREATE TABLE attempts (
        id            INTEGER PRIMARY KEY AUTOINCREMENT,
        run_id        INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        n             INTEGER NOT NULL,
        host          TEXT NOT NULL,
        boot_id       TEXT NOT NULL,
        pid           INTEGER,
        pid_started   REAL,
        checkpoint    INTEGER NOT NULL,
        result_before TEXT,
        started       TEXT NOT NULL,
        ended         TEXT,
        wall_s        REAL NOT NULL DEFAULT 0,
        exit_code     INTEGER,
        signal        TEXT,
        outcome       TEXT,
        reason        TEXT,
        evidence      TEXT,
        log           TEXT NOT NULL,
        UNIQUE (run_id, n)
    ) STRICT
    """,
    """
    CREATE TABLE events (
        id       INTEGER PRIMARY KEY AUTOINCREMENT,
        at       TEXT NOT NULL,
        kind     TEXT NOT NULL,
        sweep_id INTEGER,
        run_id   INTEGER,
        text     TEXT NOT NULL
    ) STRICT
    """,
    """
    CREATE TABLE queue (
        id      INTEGER PRIMARY KEY CHECK (id = 1),
        paused  INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
        reason  TEXT,
        boot_id TEXT
    ) STRICT
    """,
    "INSERT INTO queue (id) VALUES (1)",
    # One run at a time, whatever the program does.
    "CREATE UNIQUE INDEX one_running ON runs (state) WHERE state = 'running'",
    # Two runs that are still to be trained never share a folder.
    "CREATE UNIQUE INDEX one_run_a_folder ON runs (folder)"
    " WHERE state IN ('queued', 'running', 'paused')",
    # The order of the claim; only what waits is in it, so finished runs cost nothing.
    "CREATE INDEX runs_waiting ON runs (priority DESC, sweep_id, position) WHERE state = 'queued'",
    "CREATE INDEX runs_live ON runs (sweep_id) WHERE state IN ('queued', 'running', 'paused')",
    "CREATE INDEX runs_counts ON runs (sweep_id, state)",
    "CREATE INDEX runs_hash ON runs (hash) WHERE hash IS NOT NULL",
    "CREATE INDEX sweeps_held ON sweeps (id) WHERE paused = 1 OR after_id IS NOT NULL",
    "CREATE INDEX events_run ON events (run_id) WHERE run_id IS NOT NULL",
    """
    CREATE VIEW runs_view AS
    SELECT r.id, s.name AS sweep, r.name, r.state, r.reason, r.seed, r.overrides, r.tags,
           r.folder AS output_dir, r.attempt, r."update", r.updates_total, r.metrics, r.value,
           r.started, r.ended, r.wall_s, r.exit_code
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
    """,
    """
    CREATE VIEW attempts_view AS
    SELECT a.run_id AS run, s.name AS sweep, r.name, a.n, a.host, a.boot_id, a.pid, a.started,
           a.ended, a.wall_s, a.exit_code, a.signal, a.outcome, a.reason, a.evidence, a.log
    FROM attempts a JOIN runs r ON r.id = a.run_id JOIN sweeps s ON s.id = r.sweep_id
    """,
    """
    CREATE VIEW leaderboard AS
    SELECT s.name AS sweep,
           rank() OVER (PARTITION BY s.id ORDER BY
               CASE s.goal WHEN 'max' THEN -r.value ELSE r.value END) AS rank,
           r.id AS run, r.name, s.metric, s.reduce, r.value, r.seed, r.overrides
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
    WHERE r.value IS NOT NULL
    """,
)

# What a sweep needs to go on by itself: how it was submitted (the spec's path, --set), how it
# searches and how many settings are to come, how it stops runs; and where halving holds a run.
_SEARCH = (
    "ALTER TABLE sweeps ADD COLUMN submitted TEXT NOT NULL DEFAULT '{}'"
    " CHECK (json_valid(submitted))",
    "ALTER TABLE sweeps ADD COLUMN search TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(search))",
    "ALTER TABLE sweeps ADD COLUMN to_ask INTEGER NOT NULL DEFAULT 0 CHECK (to_ask >= 0)",
    "ALTER TABLE sweeps ADD COLUMN stop TEXT NOT NULL DEFAULT '{}' CHECK (json_valid(stop))",
    "ALTER TABLE runs ADD COLUMN rung INTEGER",
    "CREATE INDEX sweeps_to_ask ON sweeps (id) WHERE to_ask > 0",
)

# What decides how long a run takes (see kinds.py; this is the list of version 3). Computed from
# the overrides, so that no writer can forget it.
_KIND = """
    CASE WHEN json_valid(overrides) THEN json_extract(overrides,
        '$.model_name', '$.train_type', '$.dataset', '$.batch_size',
        '$.gradient_accumulation_steps', '$.num_epochs', '$.max_train_samples',
        '$.num_generations', '$.num_iterations', '$.max_new_tokens', '$.max_completion_length')
    || coalesce(json_extract(overrides, '$.kl_coeff') > 0, '') ELSE '' END
"""

_COUNT_IN = """
    INSERT INTO totals (sweep_id, state, kind, n, timed, wall_s)
    VALUES (NEW.sweep_id, NEW.state, NEW.kind, 1, NEW.wall_s > 0, NEW.wall_s)
    ON CONFLICT (sweep_id, state, kind) DO UPDATE SET
        n = n + 1, timed = timed + excluded.timed, wall_s = wall_s + excluded.wall_s;
"""
_COUNT_OUT = """
    UPDATE totals SET n = n - 1, timed = timed - (OLD.wall_s > 0), wall_s = wall_s - OLD.wall_s
    WHERE sweep_id = OLD.sweep_id AND state = OLD.state AND kind = OLD.kind;
"""

_COUNTED = (
    """
    INSERT INTO totals
    SELECT sweep_id, state, kind, count(*), sum(wall_s > 0), sum(wall_s) FROM runs GROUP BY 1, 2, 3
    """,
    f"CREATE TRIGGER totals_insert AFTER INSERT ON runs BEGIN {_COUNT_IN} END",
    f"CREATE TRIGGER totals_delete AFTER DELETE ON runs BEGIN {_COUNT_OUT} END",
    "CREATE TRIGGER totals_update AFTER UPDATE OF state, wall_s ON runs"
    f" BEGIN {_COUNT_OUT} {_COUNT_IN} END",
)

# A status must not count a hundred thousand runs: the database keeps the counts itself, in the
# transaction that changes a run, whoever changes it.
_TOTALS = (
    f"ALTER TABLE runs ADD COLUMN kind TEXT GENERATED ALWAYS AS ({_KIND}) VIRTUAL",
    """
    CREATE TABLE totals (
        sweep_id INTEGER NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
        state    TEXT NOT NULL,
        kind     TEXT NOT NULL,
        n        INTEGER NOT NULL,
        timed    INTEGER NOT NULL,
        wall_s   REAL NOT NULL,
        PRIMARY KEY (sweep_id, state, kind)
    ) STRICT, WITHOUT ROWID
    """,
    *_COUNTED,
    # The first and the last runs of each state, which a status shows.
    "CREATE INDEX runs_by_state ON runs (sweep_id, state, position)",
    "DROP INDEX runs_counts",
    "CREATE INDEX runs_begun ON runs (sweep_id)"
    " WHERE attempt > 0 AND state IN ('queued', 'running', 'paused')",
)

# A run may be the same as another one, of any sweep: equal identity. One of them, the owner, is
# trained; those that say `same_as` wait for it and share what it reached. `again` was asked for.
_OWNS = (
    "{0}identity IS NOT NULL AND {0}same_as IS NULL AND {0}again = 0"
    " AND {0}state IN ('queued', 'running', 'paused', 'completed')"
)
OWNER = _OWNS.format("")


def owner(alias: str) -> str:
    """The condition that a row of `runs` is the one that is trained for its identity."""
    return _OWNS.format(f"{alias}.")


def same_objective(other: str) -> str:
    """The condition that the sweeps of a row of `runs` and of the row `other` rank alike."""
    what = "SELECT metric || goal || reduce FROM sweeps WHERE id ="
    return f"({what} runs.sweep_id) = ({what} {other}.sweep_id)"


_FIRST = "(SELECT min(id) FROM runs WHERE same_as = OLD.id AND {live})"
_PROMOTE = """
    UPDATE runs SET reason = NULL, same_as = nullif({first}, id)
    WHERE same_as = OLD.id AND {live};
"""
_LIVE = "state IN ('queued', 'paused')"
_FROZEN = (
    "ALTER TABLE sweeps ADD COLUMN frozen INTEGER NOT NULL DEFAULT 0 CHECK (frozen IN (0, 1))",
    "ALTER TABLE runs ADD COLUMN identity TEXT",
    "ALTER TABLE runs ADD COLUMN same_as INTEGER",
    "ALTER TABLE runs ADD COLUMN again INTEGER NOT NULL DEFAULT 0 CHECK (again IN (0, 1))",
    "ALTER TABLE attempts ADD COLUMN changed TEXT NOT NULL DEFAULT '[]'"
    " CHECK (json_valid(changed))",
    f"CREATE UNIQUE INDEX one_run_a_setting ON runs (identity) WHERE {OWNER}",
    "CREATE INDEX runs_same ON runs (same_as) WHERE same_as IS NOT NULL",
    f"""
    CREATE TRIGGER same_completed AFTER UPDATE OF state ON runs
    WHEN NEW.state = 'completed' AND NEW.same_as IS NULL
    BEGIN
        UPDATE runs SET state = 'completed', output_dir = NEW.folder, folder = NEW.folder,
            "update" = NEW."update", updates_total = NEW.updates_total, metrics = NEW.metrics,
            value = CASE WHEN {same_objective("NEW")} THEN NEW.value END, exit_code = NEW.exit_code,
            reason = 'the same setting as run ' || NEW.id, started = NEW.started, ended = NEW.ended
        WHERE same_as = NEW.id AND {_LIVE};
    END
    """,
    # Its owner comes to nothing: the first that waits is trained itself, the others wait for it.
    f"""
    CREATE TRIGGER same_given_up AFTER UPDATE OF state ON runs
    WHEN NEW.state IN ('failed', 'cancelled', 'pruned') AND NEW.same_as IS NULL
    BEGIN {_PROMOTE.format(first=_FIRST.format(live=_LIVE), live=_LIVE)} END
    """,
    f"""
    CREATE TRIGGER same_deleted AFTER DELETE ON runs WHEN OLD.same_as IS NULL
    BEGIN {_PROMOTE.format(first=_FIRST.format(live="1"), live="1")} END
    """,
)

# Which decision it was that holds a sweep or halts the queue; until then only a sentence said so.
_CODES = (
    "ALTER TABLE sweeps ADD COLUMN hold_code TEXT",
    "ALTER TABLE queue ADD COLUMN halt_code TEXT",
    """
    UPDATE sweeps SET hold_code = CASE
        WHEN reason LIKE 'limits.wall:%' THEN 'wall'
        WHEN reason LIKE 'limits.disk:%' THEN 'disk'
        WHEN reason LIKE 'frozen:%' THEN 'changed'
        WHEN reason LIKE 'search:%' THEN 'search'
        WHEN reason LIKE '% failures in a row:%' THEN 'failures'
        ELSE 'user' END
    WHERE paused = 1
    """,
    """
    UPDATE queue SET halt_code = CASE WHEN boot_id IS NULL THEN 'user' ELSE 'gpu_hang' END
    WHERE paused = 1
    """,
)

# Evaluation takes time too: runs that differ in it are of different kinds.
_KINDS = (
    *(f"DROP TRIGGER totals_{change}" for change in ("insert", "delete", "update")),
    "DELETE FROM totals",
    "ALTER TABLE runs DROP COLUMN kind",
    f"ALTER TABLE runs ADD COLUMN kind TEXT GENERATED ALWAYS AS ({kind_sql()}) VIRTUAL",
    *_COUNTED,
)

# Which stop rule ended a run; until then only a sentence said so. And the leaderboard ranks what
# `best` ranks: completed runs.
_STOP_CODES = (
    "ALTER TABLE runs ADD COLUMN stop_code TEXT",
    """
    UPDATE runs SET stop_code = CASE
        WHEN reason LIKE 'median:%' THEN 'median'
        WHEN reason LIKE 'halving:%' THEN 'halving'
        WHEN reason LIKE 'health: nan for %' THEN 'not_finite'
        WHEN reason LIKE 'health:%' THEN 'health' END
    WHERE state IN ('pruned', 'failed')
    """,
    "DROP VIEW runs_view",
    """
    CREATE VIEW runs_view AS
    SELECT r.id, s.name AS sweep, r.name, r.state, r.reason, r.seed, r.overrides, r.tags,
           r.folder AS output_dir, r.attempt, r."update", r.updates_total, r.metrics, r.value,
           r.started, r.ended, r.wall_s, r.exit_code, r.stop_code
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
    """,
    "DROP VIEW leaderboard",
    """
    CREATE VIEW leaderboard AS
    SELECT s.name AS sweep,
           rank() OVER (PARTITION BY s.id ORDER BY
               CASE s.goal WHEN 'max' THEN -r.value ELSE r.value END) AS rank,
           r.id AS run, r.name, s.metric, s.reduce, r.value, r.seed, r.overrides
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
    WHERE r.value IS NOT NULL AND r.state = 'completed'
    """,
)

# Several runs may train at once, one a slot: a device, or a share of the machine. All attempts that
# came before had the first one. A slot that is paused gets no run.
_SLOTS = (
    "ALTER TABLE runs ADD COLUMN slot TEXT",
    "ALTER TABLE attempts ADD COLUMN slot TEXT NOT NULL DEFAULT '0'",
    "UPDATE runs SET slot = '0' WHERE state = 'running'",
    "DROP INDEX one_running",
    "CREATE UNIQUE INDEX one_running_a_slot ON runs (state, coalesce(slot, '0'))"
    " WHERE state = 'running'",
    """
    CREATE TABLE paused_slots (
        slot   TEXT PRIMARY KEY,
        reason TEXT NOT NULL,
        at     TEXT NOT NULL
    ) STRICT, WITHOUT ROWID
    """,
    "DROP VIEW attempts_view",
    """
    CREATE VIEW attempts_view AS
    SELECT a.run_id AS run, s.name AS sweep, r.name, a.n, a.host, a.boot_id, a.pid, a.started,
           a.ended, a.wall_s, a.exit_code, a.signal, a.outcome, a.reason, a.evidence, a.log, a.slot
    FROM attempts a JOIN runs r ON r.id = a.run_id JOIN sweeps s ON s.id = r.sweep_id
    """,
)

# Another machine may carry out an attempt; its reports count only with the attempt's token, and the
# queue has a name there. A machine whose GPU hangs takes no run until it was started anew.
_NODES = (
    "ALTER TABLE attempts ADD COLUMN token TEXT NOT NULL DEFAULT ''",
    "ALTER TABLE attempts ADD COLUMN node TEXT",
    "UPDATE attempts SET token = lower(hex(randomblob(16))) WHERE ended IS NULL",
    "ALTER TABLE queue ADD COLUMN name TEXT NOT NULL DEFAULT ''",
    "UPDATE queue SET name = lower(hex(randomblob(8)))",
    "ALTER TABLE paused_slots ADD COLUMN boot_id TEXT",
    "DROP VIEW attempts_view",
    """
    CREATE VIEW attempts_view AS
    SELECT a.run_id AS run, s.name AS sweep, r.name, a.n, a.host, a.boot_id, a.pid, a.started,
           a.ended, a.wall_s, a.exit_code, a.signal, a.outcome, a.reason, a.evidence, a.log, a.slot,
           a.node
    FROM attempts a JOIN runs r ON r.id = a.run_id JOIN sweeps s ON s.id = r.sweep_id
    """,
)

# One entry a version: version N is reached by running the first N of them.
MIGRATIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("m001_initial", _INITIAL),
    ("m002_search", _SEARCH),
    ("m003_totals", _TOTALS),
    ("m004_frozen", _FROZEN),
    ("m005_codes", _CODES),
    ("m006_kinds", _KINDS),
    ("m007_stop_codes", _STOP_CODES),
    ("m008_slots", _SLOTS),
    ("m009_nodes", _NODES),
)
VERSION = len(MIGRATIONS)


def version(db: Connection) -> int:
    """The schema version of the file; 0 for an empty one. QueueError if it is no queue."""
    found = int(db.read("PRAGMA user_version")[0][0])
    if found == 0 and db.read("SELECT 1 FROM sqlite_master LIMIT 1"):
        raise QueueError(f"{db.path}: a database of another program; move it away")
    return found


def refuse_newer(db: Connection) -> int:
    """The version of the file, unless this program is too old for it (QueueError)."""
    found = version(db)
    if found > VERSION:
        raise QueueError(
            f"{db.path}: made by a newer grpo-sweep (schema {found}, this one knows {VERSION}); "
            "upgrade with: pip install -U grpo-sweep"
        )
    return found


def migrate(db: Connection) -> None:
    """Bring the database up to date; safe when several processes try at once. QueueError."""
    if refuse_newer(db) == VERSION:
        return
    with db.write():
        # Another process may have migrated while this one waited for the lock.
        if refuse_newer(db) < VERSION:
            with db.explained():
                _apply_pending(db.raw)
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {VERSION}")


def create_in_memory(db: Connection) -> None:
    """The current tables in an empty database that nobody will keep."""
    for _, statements in MIGRATIONS:
        for statement in statements:
            db.execute(statement)


def _apply_pending(raw: sqlite3.Connection) -> None:
    # Not at the top: only a new or an old file needs it, and it takes a while to load.
    from sqlite_utils import Database, Migrations

    migrations = Migrations("grpo_sweep")
    for name, statements in MIGRATIONS:
        migrations(name=name)(_runner(statements))
    # execute_plugins=False: no third-party code on our connection.
    migrations.apply(Database(raw, execute_plugins=False))


def _runner(statements: Iterable[str]) -> Callable[[Any], None]:
    def run(db: Any) -> None:
        for statement in statements:
            db.conn.execute(statement)

    return run
