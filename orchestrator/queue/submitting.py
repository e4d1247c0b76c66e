"""How runs come into the queue: a submit, a search's next setting, an extension; all or nothing.

A setting that was trained before, or waits in another sweep, is not trained twice: see
`duplicates.py`.
"""

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from orchestrator.errors import UsageError
from orchestrator.names import folded, free_name
from orchestrator.queue.connection import Connection
from orchestrator.queue.duplicates import Duplicates, is_shared
from orchestrator.queue.history import History
from orchestrator.queue.queries import Queries
from orchestrator.queue.rows import dump
from orchestrator.run import (
    Extension,
    Plan,
    PlannedRun,
    Run,
    RunState,
    Sweep,
)
from orchestrator.system.crashpoints import crashpoint


class Submissions:
    """Adds sweeps and runs, all of a submit or nothing."""

    def __init__(
        self, db: Connection, queries: Queries, history: History, duplicates: Duplicates
    ) -> None:
        self._db = db
        self._queries = queries
        self._history = history
        self._duplicates = duplicates

    def add_sweep(
        self,
        name: str,
        make: Callable[[str], Plan],
        *,
        priority: int = 0,
        after: int | None = None,
        again: bool = False,
    ) -> Sweep:
        """Queue a sweep, all of it or nothing; a name in use becomes `name-2`.

        `make` is called inside the transaction with the free name and returns the plan. A run that
        is done already, or waits in another sweep, is not trained twice, unless `again`. Raises
        UsageError when an output folder belongs to a run that is still to be trained.
        """
        with self._db.write():
            plan = make(self._free_name(name))
            sweep_id = self._insert_sweep(plan, priority, after)
            self._insert_runs(sweep_id, plan.runs, plan.cwd, priority, again=again)
            self._history.add("submitted", f"{len(plan.runs)} runs", sweep_id)
            crashpoint("store.adding")
        self._duplicates.read_values(sweep_id=sweep_id)
        return self._queries.sweep_by_id(sweep_id)

    def _free_name(self, name: str) -> str:
        return free_name(name, {folded(row[0]) for row in self._db.read("SELECT name FROM sweeps")})

    def _insert_sweep(self, plan: Plan, priority: int, after: int | None) -> int:
        row = {
            "name": plan.name,
            "priority": priority,
            "after_id": after,
            "config_text": plan.config_text,
            "config_source": plan.config_source,
            "spec_text": plan.spec_text,
            "cwd": plan.cwd,
            **asdict(plan.objective),
            "limits": dump(asdict(plan.limits)),
            "retry": dump(asdict(plan.retry)),
            "search": dump(asdict(plan.search)),
            "to_ask": plan.to_ask,
            "stop": dump(plan.stop),
            "submitted": dump(asdict(plan.submitted)),
            "provenance": _provenance(plan),
            "frozen": int(plan.frozen),
            "created": self._history.stamp(),
        }
        names, marks = ", ".join(row), ", ".join(f":{key}" for key in row)
        return self._db.insert(f"INSERT INTO sweeps ({names}) VALUES ({marks})", row)

    def _insert_runs(
        self,
        sweep_id: int,
        runs: Sequence[PlannedRun],
        cwd: str,
        priority: int,
        first: int = 0,
        again: bool = False,
    ) -> None:
        """Queue runs, the first of them at the position `first` of its sweep."""
        created = self._history.stamp()
        owners = {} if again else self._duplicates.owners(runs)
        rows, seen = [], set[str]()
        for position, run in enumerate(runs, start=first):
            owner = owners.get(run.identity)
            shares = owner is not None and is_shared(owner, sweep_id)
            same_as = owner["id"] if owner is not None and shares else None
            # Of one setting the database takes one owner; what else is trained, is so again.
            other = not shares and (owner is not None or run.identity in seen)
            seen |= {run.identity} if run.identity else set()
            columns = (*_run_columns(run, cwd), run.identity, same_as, int(again or other))
            rows.append((sweep_id, position, priority, created, *columns))
        try:
            self._db.insert_many(
                "INSERT INTO runs (sweep_id, position, priority, created, name, seed, overrides,"
                " set_args, output_dir, folder, tags, hash, identity, same_as, again)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                iter(rows),
            )
            self._duplicates.share_results(sweep_id)
        except sqlite3.IntegrityError as e:
            if "runs.folder" not in str(e):
                raise
            raise UsageError(self._shared_folder(sweep_id, runs, cwd)) from None

    def _shared_folder(self, sweep_id: int, runs: Sequence[PlannedRun], cwd: str) -> str:
        seen: dict[str, str] = {}
        for run in runs:
            folder = _folder(cwd, run.output_dir)
            rows = self._db.read(
                "SELECT r.id, s.name FROM runs r JOIN sweeps s ON s.id = r.sweep_id"
                " WHERE folder = ? AND state IN ('queued', 'running', 'paused') AND sweep_id <> ?",
                (folder, sweep_id),
            )
            owner = f"run {rows[0][0]} of sweep {rows[0][1]}" if rows else seen.get(folder)
            if owner:
                return (
                    f"run {run.name}: output_dir {run.output_dir} belongs to {owner}, which is "
                    "still to be trained; give the sweep another `output`, or cancel the other"
                )
            seen[folder] = f"run {run.name} of the same sweep"
        return "two runs share an output folder"

    def suggest(
        self, sweep_id: int, propose: Callable[[Sweep, list[Run]], Sequence[PlannedRun]]
    ) -> list[Run]:
        """Queue what a search suggests after the runs there are, all in one transaction.

        `propose` returns the runs of one setting, none where the search has tried all there is. The
        new runs; none where another worker was faster.
        """
        with self._db.write():
            sweep, runs = self._queries.sweep_by_id(sweep_id), self._queries.runs(sweep_id)
            if not sweep.to_ask or any(run.state is RunState.QUEUED for run in runs):
                return []
            proposed = propose(sweep, runs)
            crashpoint("store.suggesting")
            first = 1 + max((run.position for run in runs), default=-1)
            self._insert_runs(sweep_id, proposed, sweep.cwd, sweep.priority, first)
            self._db.execute(
                "UPDATE sweeps SET to_ask = ? WHERE id = ?",
                (sweep.to_ask - 1 if proposed else 0, sweep_id),
            )
            text = f"{len(proposed)} runs" if proposed else "nothing is left to try"
            self._history.add("asked", text, sweep_id)
        crashpoint("store.suggested")
        self._duplicates.read_values(sweep_id=sweep_id)
        return [run for run in self._queries.runs(sweep_id) if run.position >= first]

    def extend(self, sweep_id: int, make: Callable[[Sweep, list[Run]], Extension]) -> list[Run]:
        """Add runs to a sweep, and take over the rules of its changed spec; the added runs.

        `make` is called inside the transaction with the sweep as it is.
        """
        with self._db.write():
            sweep, runs = self._queries.sweep_by_id(sweep_id), self._queries.runs(sweep_id)
            made = make(sweep, runs)
            first = 1 + max((run.position for run in runs), default=-1)
            self._insert_runs(sweep_id, made.runs, sweep.cwd, sweep.priority, first)
            plan = made.plan
            self._db.execute(
                "UPDATE sweeps SET spec_text = ?, submitted = ?, search = ?, to_ask = ?, stop = ?,"
                " limits = ?, retry = ?, provenance = ? WHERE id = ?",
                (
                    *(plan.spec_text, dump(asdict(plan.submitted)), dump(asdict(plan.search))),
                    *(plan.to_ask, dump(plan.stop), dump(asdict(plan.limits))),
                    *(dump(asdict(plan.retry)), _provenance(plan), sweep_id),
                ),
            )
            self._history.add("extended", f"{len(made.runs)} runs", sweep_id)
        self._duplicates.read_values(sweep_id=sweep_id)
        return [run for run in self._queries.runs(sweep_id) if run.position >= first]

    def end_search(self, sweep_id: int) -> bool:
        """Choose no further settings; whether there were any to choose."""
        with self._db.write():
            ended = self._db.execute(
                "UPDATE sweeps SET to_ask = 0 WHERE id = ? AND to_ask > 0", (sweep_id,)
            )
            if ended:
                self._history.add("search ended", "asked for", sweep_id)
        return bool(ended)


def _folder(cwd: str, output_dir: str) -> str:
    return os.path.normpath(os.path.join(cwd, output_dir))


def _run_columns(run: PlannedRun, cwd: str) -> tuple[Any, ...]:
    return (
        *(run.name, run.seed, dump(run.overrides), dump(run.set), run.output_dir),
        *(_folder(cwd, run.output_dir), dump(run.tags), run.hash),
    )


def _provenance(plan: Plan) -> str | None:
    return None if plan.provenance is None else dump(plan.provenance)
