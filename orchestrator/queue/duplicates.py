"""A setting that was trained before, or waits twice: one run is trained, all show its result.

A row that shows another one's result says so in `same_as`. Triggers in `schema.py` complete those
rows when their owner completes, and let one of them be trained where the owner comes to nothing.
"""

from collections.abc import Sequence
from pathlib import Path

from orchestrator.queue import schema
from orchestrator.queue.connection import Connection, Row
from orchestrator.queue.queries import Queries
from orchestrator.results.objective import read_value
from orchestrator.run import PlannedRun
from orchestrator.system.paths import RunPaths


class Duplicates:
    """Finds the owners of settings, and gives what shows their result its state and value."""

    def __init__(self, db: Connection, queries: Queries) -> None:
        self._db = db
        self._queries = queries

    def owners(self, runs: Sequence[PlannedRun]) -> dict[str | None, Row]:
        """Who is trained, or was, for settings that these runs have too, by identity."""
        found: dict[str | None, Row] = {}
        sql = f"SELECT id, sweep_id, state, folder FROM runs WHERE identity = ? AND {schema.OWNER}"
        for run in runs:
            if run.identity and (rows := self._db.read(sql, (run.identity,))):
                found[run.identity] = rows[0]
        return found

    def share_results(self, sweep_id: int) -> None:
        """Runs of the sweep that were trained before are completed, and show what came of it.

        Those that are trained elsewhere say for whom they wait.
        """
        self._db.execute(
            f"""
            UPDATE runs SET state = 'completed', output_dir = o.folder, folder = o.folder,
                "update" = o."update", updates_total = o.updates_total, metrics = o.metrics,
                value = CASE WHEN {schema.same_objective("o")} THEN o.value END,
                reason = 'the same setting as run ' || o.id, started = o.started, ended = o.ended,
                exit_code = o.exit_code
            FROM runs o WHERE o.id = runs.same_as AND o.state = 'completed'
                AND runs.sweep_id = ? AND runs.state = 'queued'
            """,
            (sweep_id,),
        )
        self._db.execute(
            "UPDATE runs SET reason = 'waits for run ' || same_as || ', which is the same setting'"
            " WHERE sweep_id = ? AND same_as IS NOT NULL AND state = 'queued'",
            (sweep_id,),
        )

    def read_values(self, *, sweep_id: int | None = None, owner_id: int | None = None) -> None:
        """Rank completed duplicates by their own sweep's objective, where the owner's is another.

        Those of a sweep, of an owner, or (both None) all. Not in the transaction that completed
        them: a log may be long, and no other process could write meanwhile. Where a process dies in
        between, the next worker calls this.
        """
        rows = self._db.read(
            "SELECT id FROM runs INDEXED BY runs_same WHERE same_as IS NOT NULL AND value IS NULL"
            " AND state = 'completed' AND sweep_id = coalesce(?, sweep_id)"
            " AND same_as = coalesce(?, same_as)",
            (sweep_id, owner_id),
        )
        runs = [self._queries.run(row[0]) for row in rows]
        values = [(read_value(r.folder, self._queries.sweep_of(r).objective), r.id) for r in runs]
        if any(value is not None for value, _ in values):
            with self._db.write():
                for value in values:
                    self._db.execute("UPDATE runs SET value = ? WHERE id = ?", value)


def is_shared(owner: Row, sweep_id: int) -> bool:
    """Whether a run of that sweep shows what the owner of its setting has reached, or will."""
    if owner["sweep_id"] == sweep_id:
        # They differ in what changes no result, such as memory, and both were asked for.
        return False
    if owner["state"] != "completed":
        # A later sweep may itself wait for this one, and then neither would ever go on.
        return bool(owner["sweep_id"] < sweep_id)
    # An owner whose files are gone has nothing to share.
    return _has_result(owner)


def _has_result(owner: Row) -> bool:
    return RunPaths(Path(owner["folder"])).result.exists()
