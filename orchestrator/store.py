"""All SQL of the queue: add, claim, finish, control and reads; every write is one transaction.

Opening changes no state: only the worker reconciles. What an outcome means for a run is decided in
`outcome.py`; what a database needs from SQLite is in `connection.py`; the tables in `schema.py`.
"""

import difflib
import json
import math
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from orchestrator import paths, schema
from orchestrator.connection import TIMEOUT_S, Connection, Row, connect, connect_memory
from orchestrator.errors import NothingAffected, UsageError
from orchestrator.faults import crashpoint
from orchestrator.limits import lift
from orchestrator.outcome import BACKOFF_MOST_S, Next, decide, stamp
from orchestrator.run import (
    TRANSITIONS,
    Attempt,
    Extension,
    Limits,
    Objective,
    Outcome,
    Plan,
    PlannedRun,
    Progress,
    Retry,
    Run,
    RunState,
    Search,
    Share,
    Submitted,
    Sweep,
    Verdict,
)

if TYPE_CHECKING:
    # It brings the config's fields along, for which a status would have to wait.
    from orchestrator.stopping import Decision

_RUN = """
    SELECT r.id, r.sweep_id, s.name AS sweep, r.name, r.position, r.priority, r.state, r.reason,
           r.request, r.seed, r.overrides, r.set_args, r.output_dir, s.cwd, r.tags, r.hash,
           r.attempt, r.deaths, r.not_before, r."update", r.updates_total, r.metrics, r.wall_s,
           r.exit_code, r.created, r.started, r.ended, r.value, r.rung, r.kind,
           r.same_as
    FROM runs r JOIN sweeps s ON s.id = r.sweep_id
"""

# A sweep that is held keeps its queued runs; `after` holds it until the other has nothing to do.
_HELD = """
    SELECT id FROM sweeps h WHERE (paused = 1 OR after_id IS NOT NULL) AND (paused = 1 OR EXISTS (
        SELECT 1 FROM runs WHERE sweep_id = h.after_id
        AND state IN ('queued', 'running', 'paused')))
"""

# The halt of a GPU that hangs ends with the boot in which it hung.
_HALTED = "SELECT 1 FROM queue WHERE paused = 1 AND (boot_id IS NULL OR boot_id = :boot_id)"

_CLAIM = f"""
    UPDATE runs SET state = 'running', attempt = attempt + 1, deaths = deaths + 1,
        not_before = NULL, request = NULL, reason = NULL, ended = NULL, exit_code = NULL,
        started = coalesce(started, :now)
    WHERE id = (
        SELECT id FROM runs
        WHERE state = 'queued' AND same_as IS NULL
          AND (not_before IS NULL OR not_before <= :now OR not_before > :horizon)
          AND sweep_id NOT IN ({_HELD})
        ORDER BY priority DESC, sweep_id, position LIMIT 1)
      AND NOT EXISTS (SELECT 1 FROM runs WHERE state = 'running')
      AND NOT EXISTS ({_HALTED})
    RETURNING id
"""


@dataclass(frozen=True)
class Before:
    """What lay in the output folder when an attempt began (see Attempt), and where it will log."""

    checkpoint: int
    result: str | None
    log: str


@dataclass(frozen=True)
class Waiting:
    """Why nothing can be claimed: `ready_at` is when a back-off ends, `held` names what is held."""

    queued: int
    ready_at: str | None
    held: tuple[str, ...]


class Store:
    """The queue in one SQLite file; use it as a context manager."""

    def __init__(self, db: Connection, now: Callable[[], datetime] | None = None) -> None:
        self._db = db
        self._now = now or (lambda: datetime.now(UTC))

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
        except BaseException:
            db.close()
            raise
        return cls(db)

    @property
    def path(self) -> Path:
        """The database file."""
        return self._db.path

    def close(self) -> None:
        """Close the connection."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _stamp(self) -> str:
        return stamp(self._now())

    def _event(self, kind: str, text: str, sweep_id: int | None, run_id: int | None = None) -> None:
        self._db.execute(
            "INSERT INTO events (at, kind, sweep_id, run_id, text) VALUES (?, ?, ?, ?, ?)",
            (self._stamp(), kind, sweep_id, run_id, text),
        )

    # --- submit

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
            self._event("submitted", f"{len(plan.runs)} runs", sweep_id)
            crashpoint("store.adding")
        return self._sweep(sweep_id)

    def _free_name(self, name: str) -> str:
        taken = {row[0] for row in self._db.read("SELECT name FROM sweeps")}
        free, n = name, 2
        while free in taken:
            free, n = f"{name}-{n}", n + 1
        return free

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
            "limits": _dump(asdict(plan.limits)),
            "retry": _dump(asdict(plan.retry)),
            "search": _dump(asdict(plan.search)),
            "to_ask": plan.to_ask,
            "stop": _dump(plan.stop),
            "submitted": _dump(asdict(plan.submitted)),
            "provenance": None if plan.provenance is None else _dump(plan.provenance),
            "frozen": int(plan.frozen),
            "created": self._stamp(),
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
        created = self._stamp()
        owners = {} if again else self._owners(runs)
        rows = []
        for position, run in enumerate(runs, start=first):
            owner = owners.get(run.identity)
            # An owner whose files are gone has nothing to share.
            lost = owner is not None and owner["state"] == "completed" and not _has_result(owner)
            same_as = owner["id"] if owner is not None and not lost else None
            columns = (*_run_columns(run, cwd), run.identity, same_as, int(again or lost))
            rows.append((sweep_id, position, priority, created, *columns))
        try:
            self._db.insert_many(
                "INSERT INTO runs (sweep_id, position, priority, created, name, seed, overrides,"
                " set_args, output_dir, folder, tags, hash, identity, same_as, again)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                iter(rows),
            )
            self._complete_done(sweep_id)
        except sqlite3.IntegrityError as e:
            if "runs.folder" not in str(e):
                raise
            raise UsageError(self._shared_folder(sweep_id, runs, cwd)) from None

    def _owners(self, runs: Sequence[PlannedRun]) -> dict[str | None, Row]:
        """Who is trained, or was, for settings that these runs have too, by identity."""
        found: dict[str | None, Row] = {}
        sql = f"SELECT id, state, folder FROM runs WHERE identity = ? AND {schema.OWNER}"
        for run in runs:
            if run.identity and (rows := self._db.read(sql, (run.identity,))):
                found[run.identity] = rows[0]
        return found

    def _complete_done(self, sweep_id: int) -> None:
        """Runs of the sweep that were trained before are completed, and show what came of it."""
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

    # --- search

    def dry(self) -> list[Sweep]:
        """The sweeps that are to choose their next setting: nothing of them waits or runs."""
        return self._sweeps(
            f"WHERE to_ask > 0 AND id NOT IN ({_HELD}) AND NOT EXISTS (SELECT 1 FROM runs WHERE"
            " sweep_id = sweeps.id AND state IN ('queued', 'running'))",
            {},
        )

    def ask(
        self, sweep_id: int, propose: Callable[[Sweep, list[Run]], Sequence[PlannedRun]]
    ) -> list[Run]:
        """Queue what a search proposes after the runs there are, all in one transaction.

        `propose` returns the runs of one setting, none where the search has tried all there is. The
        new runs; none where another worker was faster.
        """
        with self._db.write():
            sweep, runs = self._sweep(sweep_id), self.runs(sweep_id)
            if not sweep.to_ask or any(r.state in ("queued", "running") for r in runs):
                return []
            proposed = propose(sweep, runs)
            crashpoint("store.asking")
            first = 1 + max((run.position for run in runs), default=-1)
            self._insert_runs(sweep_id, proposed, sweep.cwd, sweep.priority, first)
            self._db.execute(
                "UPDATE sweeps SET to_ask = ? WHERE id = ?",
                (sweep.to_ask - 1 if proposed else 0, sweep_id),
            )
            told = f"{len(proposed)} runs" if proposed else "nothing is left to try"
            self._event("asked", told, sweep_id)
        crashpoint("store.asked")
        return [run for run in self.runs(sweep_id) if run.position >= first]

    def extend(self, sweep_id: int, make: Callable[[Sweep, list[Run]], Extension]) -> list[Run]:
        """Add runs to a sweep, and take over the rules of its changed spec; the added runs.

        `make` is called inside the transaction with the sweep as it is.
        """
        with self._db.write():
            sweep, runs = self._sweep(sweep_id), self.runs(sweep_id)
            made = make(sweep, runs)
            first = 1 + max((run.position for run in runs), default=-1)
            self._insert_runs(sweep_id, made.runs, sweep.cwd, sweep.priority, first)
            plan = made.plan
            self._db.execute(
                "UPDATE sweeps SET spec_text = ?, submitted = ?, search = ?, to_ask = ?, stop = ?,"
                " limits = ?, retry = ? WHERE id = ?",
                (
                    *(plan.spec_text, _dump(asdict(plan.submitted)), _dump(asdict(plan.search))),
                    *(plan.to_ask, _dump(plan.stop), _dump(asdict(plan.limits))),
                    *(_dump(asdict(plan.retry)), sweep_id),
                ),
            )
            self._event("extended", f"{len(made.runs)} runs", sweep_id)
        return [run for run in self.runs(sweep_id) if run.position >= first]

    def at_rung(self) -> list[Sweep]:
        """The sweeps in which every run has ended or waits at a rung of halving."""
        return self._sweeps(
            "WHERE id IN (SELECT sweep_id FROM runs WHERE state = 'paused' AND rung IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM runs WHERE sweep_id = sweeps.id AND (state IN"
            " ('queued', 'running') OR (state = 'paused' AND rung IS NULL)))",
            {},
        )

    def leave_rung(self, run_id: int, decision: "Decision | None") -> Run | None:
        """Let a run that waits at a rung go on, or prune it by a decision; None if it has left."""
        with self._db.write():
            run = self.run(run_id)
            if run.state is not RunState.PAUSED or run.rung is None:
                return None
            new = RunState.QUEUED if decision is None else RunState.PRUNED
            reason = None if decision is None else f"{decision.reason} ({decision.evidence})"
            self._db.execute(
                "UPDATE runs SET state = ?, reason = ?, rung = NULL, ended = ? WHERE id = ?",
                (str(new), reason, self._stamp() if decision else None, run_id),
            )
            self._event(str(new), reason or "goes on from its rung", run.sweep_id, run_id)
        return self.run(run_id)

    def end_search(self, sweep_id: int) -> bool:
        """Choose no further settings; whether there were any to choose."""
        with self._db.write():
            ended = self._db.execute(
                "UPDATE sweeps SET to_ask = 0 WHERE id = ? AND to_ask > 0", (sweep_id,)
            )
            if ended:
                self._event("search ended", "asked for", sweep_id)
        return bool(ended)

    # --- reads

    def sweeps(self, all: bool = False, latest: int = 5) -> list[Sweep]:
        """The unfinished sweeps and the `latest` ones (or all), oldest first."""
        where = "" if all else "WHERE id IN (SELECT sweep_id FROM totals WHERE n > 0 AND state IN "
        if not all:
            where += "('queued', 'running', 'paused')) OR to_ask > 0 OR id IN "
            where += "(SELECT id FROM sweeps ORDER BY id DESC LIMIT :latest)"
        return self._sweeps(where, {"latest": latest})

    def _sweeps(self, where: str, params: dict[str, Any]) -> list[Sweep]:
        rows = self._db.read(f"SELECT * FROM sweeps {where} ORDER BY id", params)
        return [_sweep(row, self.counts(row["id"])) for row in rows]

    def counts(self, sweep_id: int) -> dict[RunState, int]:
        """How many runs of the sweep stand in each state, in the order of RunState."""
        found: Counter[RunState] = Counter()
        for share in self.shares(sweep_id):
            found[share.state] += share.n
        return {state: found[state] for state in RunState if found[state]}

    def shares(self, sweep_id: int) -> list[Share]:
        """The runs of a sweep counted by state and kind; as fast for many runs as for few."""
        rows = self._db.read(
            "SELECT state, kind, n, timed, wall_s FROM totals WHERE sweep_id = ? AND n > 0",
            (sweep_id,),
        )
        return [Share(RunState(row[0]), *row[1:]) for row in rows]

    def sweep(self, ref: str) -> Sweep:
        """The sweep named `ref`, or with that id, or `@` for the latest, `@~1` for the one before.

        Raises NothingAffected.
        """
        if back := re.fullmatch(r"@(?:~(\d+))?", ref):
            sql = "SELECT id FROM sweeps ORDER BY id DESC LIMIT 1 OFFSET ?"
            rows = self._db.read(sql, (int(back[1] or 0),))
        else:
            rows = self._db.read("SELECT id FROM sweeps WHERE name = ?", (ref,))
            if not rows and _is_id(ref):
                rows = self._db.read("SELECT id FROM sweeps WHERE id = ?", (int(ref),))
        if not rows:
            raise NothingAffected(self._no_sweep(ref))
        return self._sweep(rows[0][0])

    def sweep_of(self, run: Run) -> Sweep:
        """The sweep that a run belongs to, its counts left out: they take time to count."""
        row = self._db.read("SELECT * FROM sweeps WHERE id = ?", (run.sweep_id,))[0]
        return _sweep(row, {})

    def _sweep(self, sweep_id: int) -> Sweep:
        return self._sweeps("WHERE id = :id", {"id": sweep_id})[0]

    def _no_sweep(self, ref: str) -> str:
        names = [row[0] for row in self._db.read("SELECT name FROM sweeps ORDER BY id DESC")]
        if not names:
            return f"{ref}: the queue holds no sweep; queue one with: grpo-sweep submit SPEC"
        near = difflib.get_close_matches(ref, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"the latest is {names[0]}"
        return f"{ref}: no such sweep; {hint}"

    def runs(
        self,
        sweep_id: int | None = None,
        states: Iterable[RunState] | None = None,
        limit: int | None = None,
    ) -> list[Run]:
        """Runs of a sweep (or all), in the given states (or any), in the order of the sweeps."""
        clauses, params = [], []
        if sweep_id is not None:
            clauses.append("r.sweep_id = ?")
            params.append(str(sweep_id))
        if states is not None:
            wanted = [str(state) for state in states]
            clauses.append(f"r.state IN ({', '.join('?' * len(wanted))})")
            params += wanted
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        order = f"ORDER BY r.sweep_id, r.position LIMIT {-1 if limit is None else int(limit)}"
        return [_run(row) for row in self._db.read(f"{_RUN} {where} {order}", params)]

    def begun(self, sweep_id: int) -> list[Run]:
        """The unfinished runs of a sweep that have been started before."""
        return self._runs(
            "WHERE r.sweep_id = ? AND r.attempt > 0 AND r.state IN ('queued', 'running', 'paused')"
            " ORDER BY r.position",
            (sweep_id,),
        )

    def telling(self, sweep_id: int, most: int) -> list[Run]:
        """A screenful of a long sweep, in its order.

        What runs and what failed, what is paused and what comes next, then what ended last.
        """
        found: list[Run] = []
        for state in (RunState.RUNNING, RunState.FAILED, RunState.PAUSED, RunState.QUEUED):
            found += self._edge(sweep_id, state, most - len(found))
        ended = [
            run
            for state in (RunState.COMPLETED, RunState.PRUNED, RunState.CANCELLED)
            for run in self._edge(sweep_id, state, most - len(found))
        ]
        ended.sort(key=lambda run: -run.position)
        return sorted(found + ended[: most - len(found)], key=lambda run: run.position)

    def _edge(self, sweep_id: int, state: RunState, most: int) -> list[Run]:
        """Of those that wait the first ones, of the others the last."""
        order = "ASC" if state is RunState.QUEUED else "DESC"
        return self._runs(
            f"WHERE r.sweep_id = ? AND r.state = ? ORDER BY r.position {order} LIMIT ?",
            (sweep_id, str(state), most),
        )

    def _runs(self, clauses: str, params: Sequence[Any]) -> list[Run]:
        return [_run(row) for row in self._db.read(f"{_RUN} {clauses}", params)]

    def run(self, run_id: int) -> Run:
        """The run with this id; NothingAffected."""
        rows = self._db.read(f"{_RUN} WHERE r.id = ?", (run_id,))
        if not rows:
            raise NothingAffected(f"run {run_id}: no such run; see: grpo-sweep status --all")
        return _run(rows[0])

    def running(self) -> Run | None:
        """The run that is running, if one is."""
        rows = self._db.read(f"{_RUN} WHERE r.state = 'running'")
        return _run(rows[0]) if rows else None

    def attempts(self, run_id: int) -> list[Attempt]:
        """Every attempt of the run, the first one first."""
        rows = self._db.read(f"{_ATTEMPT} WHERE run_id = ? ORDER BY n", (run_id,))
        return [_attempt(row) for row in rows]

    def find_runs(self, ref: str) -> list[Run]:
        """The runs that `ref` means: an id `12`, a range `3-7`, a sweep's name, `@`.

        Raises NothingAffected when there are none.
        """
        if _is_id(ref):
            return [self.run(int(ref))]
        if (span := re.fullmatch(r"(\d{1,18})-(\d{1,18})", ref)) and not self._is_name(ref):
            ids = (int(span[1]), int(span[2]))
            rows = self._db.read(f"{_RUN} WHERE r.id BETWEEN ? AND ? ORDER BY r.id", ids)
            if not rows:
                raise NothingAffected(f"{ref}: no run has an id in this range")
            return [_run(row) for row in rows]
        return self.runs(self.sweep(ref).id)

    def _is_name(self, ref: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM sweeps WHERE name = ?", (ref,)))

    def request(self, run_id: int) -> str | None:
        """What a user asks of this run: cancel, pause, or nothing. Cheap enough to poll."""
        rows = self._db.read("SELECT request FROM runs WHERE id = ?", (run_id,))
        return rows[0][0] if rows else None

    def trained_s(self, sweep_id: int) -> float:
        """Seconds that the ended attempts of a sweep have trained."""
        rows = self._db.read("SELECT sum(wall_s) FROM totals WHERE sweep_id = ?", (sweep_id,))
        return float(rows[0][0] or 0.0)

    def folders(self, sweep_id: int) -> list[Path]:
        """The output folders of the sweep's runs that have begun."""
        sql = "SELECT folder FROM runs WHERE sweep_id = ? AND attempt > 0"
        return [Path(row[0]) for row in self._db.read(sql, (sweep_id,))]

    def halted(self, boot_id: str) -> str | None:
        """Why the whole queue stands still, if it does."""
        rows = self._db.read(
            f"SELECT reason FROM queue WHERE EXISTS ({_HALTED})", {"boot_id": boot_id}
        )
        return str(rows[0][0] or "the queue is paused") if rows else None

    def waiting(self, boot_id: str) -> Waiting:
        """What is queued, and why it cannot be claimed."""
        queued = self._db.read("SELECT sum(n) FROM totals WHERE state = 'queued'")[0][0] or 0
        ready = self._db.read(
            "SELECT min(coalesce(not_before, '')) FROM runs WHERE state = 'queued'"
            f" AND same_as IS NULL AND sweep_id NOT IN ({_HELD})"
        )[0][0]
        halted = self.halted(boot_id)
        held = self._db.read(
            f"SELECT name, reason FROM sweeps WHERE id IN ({_HELD}) AND id IN"
            " (SELECT sweep_id FROM totals WHERE state = 'queued' AND n > 0) ORDER BY id"
        )
        words = [f"sweep {name} is held: {why or 'it waits for another'}" for name, why in held]
        if halted:
            return Waiting(queued, None, (f"the queue stands still: {halted}", *words))
        return Waiting(queued, ready, tuple(words))

    # --- the worker's writes

    def claim(
        self, host: str, boot_id: str, before: Callable[[Run], Before]
    ) -> tuple[Run, Attempt] | None:
        """Take the next queued run and open its attempt; None when nothing can be taken.

        The order is priority, sweep, position. The attempt counts as a death until its end is
        explained, so that one that takes the machine down with it is counted too. `before` looks
        at the output folder.
        """
        with self._db.write():
            # A clock that was set back must not make a back-off of seconds one of hours.
            horizon = stamp(self._now(), 2 * BACKOFF_MOST_S)
            times = {"now": self._stamp(), "horizon": horizon}
            claimed = self._db.read(_CLAIM, {**times, "boot_id": boot_id})
            if not claimed:
                return None
            run = self.run(claimed[0]["id"])
            attempt = self._open_attempt(run, host, boot_id, before(run))
            crashpoint("store.claiming")
        crashpoint("store.claimed")
        return run, attempt

    def _open_attempt(self, run: Run, host: str, boot_id: str, before: Before) -> Attempt:
        attempt_id = self._db.insert(
            "INSERT INTO attempts (run_id, n, host, boot_id, checkpoint, result_before, started,"
            " log) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run.id, run.attempt, host, boot_id),
                *(before.checkpoint, before.result, self._stamp(), before.log),
            ),
        )
        self._event("started", f"attempt {run.attempt}", run.sweep_id, run.id)
        return self._attempt(attempt_id)

    def _attempt(self, attempt_id: int) -> Attempt:
        return _attempt(self._db.read(f"{_ATTEMPT} WHERE id = ?", (attempt_id,))[0])

    def started(self, attempt: Attempt, pid: int, pid_started: float | None) -> Attempt:
        """Record the process of an attempt."""
        with self._db.write():
            self._db.execute(
                "UPDATE attempts SET pid = ?, pid_started = ? WHERE id = ?",
                (pid, pid_started, attempt.id),
            )
        return replace(attempt, pid=pid, pid_started=pid_started)

    def note_changes(self, attempt: Attempt, lines: Sequence[str]) -> None:
        """Record what, of all that the sweep was submitted with, has changed at this launch."""
        with self._db.write():
            self._db.execute(
                "UPDATE attempts SET changed = ? WHERE id = ?", (_dump(list(lines)), attempt.id)
            )

    def tick(self, attempt: Attempt, wall_s: float) -> None:
        """Record how long an attempt has trained, so that a dead worker does not forget it."""
        with self._db.write():
            self._db.execute(
                "UPDATE attempts SET wall_s = ? WHERE id = ? AND ended IS NULL",
                (wall_s, attempt.id),
            )

    def finish(
        self,
        attempt: Attempt,
        outcome: Outcome,
        *,
        newer_checkpoint: bool,
        progress: Progress,
        wall_s: float = 0.0,
        value: float | None = None,
    ) -> Run | None:
        """Record how an attempt ended and what becomes of its run; None if that was done before.

        `value` is what the sweep's objective is now, None where the log does not say.
        """
        with self._db.write():
            if not self._close_attempt(attempt, outcome, wall_s):
                return None
            run = self.run(attempt.run_id)
            sweep = self.sweep_of(run)
            then = decide(run, sweep.retry, outcome, newer_checkpoint, self._now())
            self._leave_running(run, outcome, then, progress, wall_s, value)
            self._count_failures(sweep, run, outcome, then)
            if then.halt:
                self._halt(then.halt, attempt.boot_id)
            self._event(str(then.state), then.reason or outcome.reason, run.sweep_id, run.id)
            crashpoint("store.finishing")
        crashpoint("store.finished")
        return self.run(attempt.run_id)

    def _close_attempt(self, attempt: Attempt, outcome: Outcome, wall_s: float) -> bool:
        changed = self._db.execute(
            "UPDATE attempts SET ended = ?, exit_code = ?, signal = ?, outcome = ?, reason = ?,"
            " evidence = ?, wall_s = max(wall_s, ?) WHERE id = ? AND ended IS NULL",
            (
                *(self._stamp(), outcome.exit_code, outcome.signal, str(outcome.verdict)),
                *(outcome.reason, outcome.evidence, wall_s, attempt.id),
            ),
        )
        return changed == 1

    def _leave_running(
        self,
        run: Run,
        outcome: Outcome,
        then: Next,
        progress: Progress,
        wall_s: float,
        value: float | None,
    ) -> None:
        ended = self._stamp() if then.state in _ENDED else None
        self._db.execute(
            "UPDATE runs SET state = ?, reason = ?, request = NULL, deaths = ?, not_before = ?,"
            ' "update" = ?, updates_total = ?, metrics = ?, value = ?, wall_s = wall_s + ?,'
            " exit_code = ?, ended = ?, rung = ? WHERE id = ? AND state = 'running'",
            (
                *(str(then.state), then.reason, then.deaths, then.not_before),
                *(progress.update, progress.updates_total, _dump(progress.metrics), value),
                *(wall_s, outcome.exit_code, ended),
                *(progress.update if outcome.verdict is Verdict.HELD else None, run.id),
            ),
        )

    def _count_failures(self, sweep: Sweep, run: Run, outcome: Outcome, then: Next) -> None:
        """After `limits.max_failures` failures in a row with one verdict, hold the sweep."""
        if then.state is RunState.FAILED:
            row = self._db.read(
                "UPDATE sweeps SET fail_streak = CASE WHEN fail_verdict IS ?1"
                " THEN fail_streak + 1 ELSE 1 END, fail_verdict = ?1 WHERE id = ?2"
                " RETURNING fail_streak",
                (str(outcome.verdict), sweep.id),
            )
            streak, most = int(row[0][0]), sweep.limits.max_failures
            if most and streak >= most:
                words = f"{streak} failures in a row: {outcome.verdict}; the last is run {run.id}"
                self._hold(sweep.id, words)
        elif then.state in (RunState.COMPLETED, RunState.PRUNED):
            self._db.execute(
                "UPDATE sweeps SET fail_streak = 0, fail_verdict = NULL WHERE id = ?", (sweep.id,)
            )

    def _hold(self, sweep_id: int, reason: str) -> None:
        self._db.execute(
            "UPDATE sweeps SET paused = 1, reason = ? WHERE id = ?", (reason, sweep_id)
        )
        self._event("held", reason, sweep_id)

    def _halt(self, reason: str, boot_id: str | None) -> None:
        self._db.execute(
            "UPDATE queue SET paused = 1, reason = ?, boot_id = ? WHERE id = 1", (reason, boot_id)
        )
        self._event("halted", reason, None)

    # --- control

    def cancel(self, run_ids: Sequence[int]) -> list[Run]:
        """Cancel runs; a running one when the worker gets to it (`request`). The changed runs.

        Raises NothingAffected when no run could be changed.
        """
        return self._control(run_ids, RunState.CANCELLED, "cancel", "cancelled")

    def pause(self, run_ids: Sequence[int]) -> list[Run]:
        """Hold queued runs back; a running one checkpoints and frees the GPU. The changed runs.

        Raises NothingAffected when no run could be changed.
        """
        return self._control(run_ids, RunState.PAUSED, "pause", "paused")

    def resume(self, run_ids: Sequence[int]) -> list[Run]:
        """Queue paused runs again. Raises NothingAffected when no run could be changed."""
        return self._control(run_ids, RunState.QUEUED, None, None, only=RunState.PAUSED)

    def retry(self, run_ids: Sequence[int]) -> list[Run]:
        """Queue failed runs again; they go on from their checkpoints. Raises NothingAffected."""
        return self._control(run_ids, RunState.QUEUED, None, None, only=RunState.FAILED)

    def _control(
        self,
        run_ids: Sequence[int],
        new: RunState,
        request: str | None,
        reason: str | None,
        only: RunState | None = None,
    ) -> list[Run]:
        with self._db.write():
            runs = [self.run(run_id) for run_id in run_ids]
            changed = [run for run in runs if self._change(run, new, request, reason, only)]
            if not changed:
                raise NothingAffected(_illegal(runs, new, only))
        return [self.run(run.id) for run in changed]

    def _change(
        self,
        run: Run,
        new: RunState,
        request: str | None,
        reason: str | None,
        only: RunState | None,
    ) -> bool:
        if run.state is RunState.RUNNING and request is not None:
            # Cancel outranks pause; asking twice for the same changes nothing.
            if run.request in (request, "cancel"):
                return False
            self._db.execute("UPDATE runs SET request = ? WHERE id = ?", (request, run.id))
            self._event("asked", request, run.sweep_id, run.id)
            return True
        if run.state is new or new not in TRANSITIONS[run.state] or only not in (None, run.state):
            return False
        ended = self._stamp() if new in _ENDED else None
        deaths = 0 if run.state is RunState.FAILED else run.deaths
        # Meanwhile another sweep may have queued the same setting: then this one is trained too.
        self._db.execute(
            "UPDATE runs SET state = ?1, reason = ?2, ended = ?3, deaths = ?4, not_before = NULL,"
            " rung = NULL, again = again OR (?1 = 'queued' AND same_as IS NULL AND EXISTS"
            " (SELECT 1 FROM runs o WHERE o.identity = runs.identity AND o.id <> runs.id"
            f" AND {schema.owner('o')})) WHERE id = ?5",
            (str(new), reason, ended, deaths, run.id),
        )
        self._event(str(new), reason or "asked for", run.sweep_id, run.id)
        return True

    def pause_sweep(self, sweep_id: int, reason: str = "paused") -> None:
        """Start no more runs of this sweep. Raises NothingAffected if it is held already."""
        with self._db.write():
            sweep = self._sweep(sweep_id)
            if sweep.paused:
                raise NothingAffected(f"sweep {sweep.name} is paused already: {sweep.reason}")
            self._hold(sweep_id, reason)

    def hold_sweep(self, sweep_id: int, reason: str) -> None:
        """Start no more runs of this sweep, because a limit is used up."""
        with self._db.write():
            self._hold(sweep_id, reason)

    def resume_sweep(self, sweep_id: int) -> None:
        """Let a held sweep go on, its count of failures at 0, without the limit that held it.

        Raises NothingAffected.
        """
        with self._db.write():
            sweep = self._sweep(sweep_id)
            if not sweep.paused:
                raise NothingAffected(f"sweep {sweep.name} is not paused")
            lifted = lift(sweep.limits, sweep.reason)
            self._db.execute(
                "UPDATE sweeps SET paused = 0, fail_streak = 0, fail_verdict = NULL, limits = ?,"
                " frozen = frozen AND coalesce(reason, '') NOT LIKE 'frozen:%', reason = NULL"
                " WHERE id = ?",
                (_dump(asdict(lifted)), sweep_id),
            )
            self._event("resumed", "asked for", sweep_id)

    def pause_queue(self, reason: str = "paused") -> Run | None:
        """Start no more runs at all; the running one, if there is one, checkpoints and waits.

        That run; its `request` is done by the worker. Raises NothingAffected if it was paused.
        """
        with self._db.write():
            if self._db.read("SELECT 1 FROM queue WHERE paused = 1 AND boot_id IS NULL"):
                raise NothingAffected("the queue is paused already")
            self._halt(reason, None)
            run = self.running()
            if run is not None and run.request is None:
                self._db.execute("UPDATE runs SET request = 'stop' WHERE id = ?", (run.id,))
        return run

    def resume_queue(self) -> None:
        """Let the queue go on. Raises NothingAffected if it was not paused."""
        with self._db.write():
            changed = self._db.execute(
                "UPDATE queue SET paused = 0, reason = NULL, boot_id = NULL WHERE paused = 1"
            )
            if not changed:
                raise NothingAffected("the queue is not paused")
            self._event("resumed", "asked for", None)

    def move_first(self, run_ids: Sequence[int]) -> list[Run]:
        """Put queued runs before all others, in the order given. Raises NothingAffected."""
        with self._db.write():
            runs = [self.run(run_id) for run_id in run_ids]
            queued = [run for run in runs if run.state is RunState.QUEUED]
            if not queued:
                raise NothingAffected(_illegal(runs, RunState.RUNNING, RunState.QUEUED))
            top = self._db.read("SELECT max(priority) FROM runs WHERE state = 'queued'")[0][0]
            for rank, run in enumerate(reversed(queued), start=1):
                sql = "UPDATE runs SET priority = ? WHERE id = ?"
                self._db.execute(sql, (top + rank, run.id))
        return [self.run(run.id) for run in queued]

    def remove(self, run_ids: Sequence[int]) -> list[Run]:
        """Forget runs that are not running, and sweeps that hold none any more; files stay.

        Returns what was removed; raises NothingAffected when that is nothing.
        """
        with self._db.write():
            runs = [self.run(run_id) for run_id in run_ids]
            gone = [run for run in runs if run.state is not RunState.RUNNING]
            if not gone:
                raise NothingAffected(f"run {runs[0].id} is running; cancel it first")
            for run in gone:
                self._db.execute("DELETE FROM runs WHERE id = ?", (run.id,))
                self._event("removed", run.name, run.sweep_id, run.id)
            for sweep_id in {run.sweep_id for run in gone}:
                self._db.execute(
                    "DELETE FROM sweeps WHERE id = ?1 AND NOT EXISTS"
                    " (SELECT 1 FROM runs WHERE sweep_id = ?1)",
                    (sweep_id,),
                )
        return gone

    def damage(self) -> str | None:
        """What SQLite finds wrong with the file, in its words; None where it is whole.

        QueueError where it cannot even be read.
        """
        found = str(self._db.read("PRAGMA quick_check(1)")[0][0])
        return None if found == "ok" else found

    def shown_elsewhere(self, folders: Sequence[Path]) -> set[Path]:
        """Which of these folders belong to a run of the queue."""
        sql = "SELECT 1 FROM runs WHERE folder = ? LIMIT 1"
        return {folder for folder in folders if self._db.read(sql, (os.path.normpath(folder),))}

    def backup(self, target: Path) -> None:
        """Write a whole, compact copy of the queue to `target`, which must not exist.

        Safe while others write, unlike copying the file. Raises UsageError, QueueError.
        """
        if target.exists():
            raise UsageError(f"{target}: exists; name a file that does not")
        if not target.parent.is_dir():
            raise UsageError(f"{target}: there is no folder {target.parent}")
        self._db.execute("VACUUM INTO ?", (str(target),))
        target.chmod(0o600)


_ENDED = (RunState.COMPLETED, RunState.PRUNED, RunState.FAILED, RunState.CANCELLED)

_ATTEMPT = (
    "SELECT id, run_id, n, host, boot_id, pid, pid_started, checkpoint, result_before, started,"
    " ended, wall_s, exit_code, signal, outcome, reason, evidence, log, changed FROM attempts"
)


def _is_id(ref: str) -> bool:
    return ref.isascii() and ref.isdigit() and len(ref) <= 18


def _folder(cwd: str, output_dir: str) -> str:
    return os.path.normpath(os.path.join(cwd, output_dir))


def _illegal(runs: Sequence[Run], new: RunState, only: RunState | None) -> str:
    if not runs:
        return "no run was named"
    need = f" (only {only} ones can)" if only else ""
    words = [f"run {run.id} is {run.state}" + _asked(run) for run in runs[:3]]
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"nothing changed: {', '.join(words)}{more}, and cannot become {new}{need}"


def _asked(run: Run) -> str:
    return f" and asked to {run.request}" if run.request else ""


def _run_columns(run: PlannedRun, cwd: str) -> tuple[Any, ...]:
    return (
        *(run.name, run.seed, _dump(run.overrides), _dump(run.set), run.output_dir),
        *(_folder(cwd, run.output_dir), _dump(run.tags), run.hash),
    )


def _dump(value: Any) -> str:
    """JSON that SQLite's functions can read: what is not finite becomes its name."""
    try:
        return json.dumps(value, allow_nan=False, ensure_ascii=False)
    except ValueError:
        return json.dumps(_finite(value), ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _run(row: Row) -> Run:
    d = dict(row)
    d["state"] = RunState(d["state"])
    d["overrides"] = json.loads(d["overrides"])
    d["set"] = tuple(json.loads(d.pop("set_args")))
    d["tags"] = tuple(json.loads(d["tags"]))
    d["metrics"] = json.loads(d["metrics"])
    return Run(**d)


def _attempt(row: Row) -> Attempt:
    return Attempt(**{**dict(row), "changed": tuple(json.loads(row["changed"]))})


def _has_result(owner: Row) -> bool:
    return paths.RunPaths(Path(owner["folder"])).result.exists()


def _sweep(row: Row, counts: dict[RunState, int]) -> Sweep:
    retry = json.loads(row["retry"])
    return Sweep(
        id=row["id"],
        name=row["name"],
        priority=row["priority"],
        paused=bool(row["paused"]),
        reason=row["reason"],
        config_text=row["config_text"],
        config_source=row["config_source"],
        spec_text=row["spec_text"],
        cwd=row["cwd"],
        objective=Objective(row["metric"], row["goal"], row["reduce"]),
        limits=Limits(**json.loads(row["limits"])),
        retry=Retry(retry["max"], tuple(retry["on"])),
        created=row["created"],
        counts=counts,
        search=Search(**json.loads(row["search"])),
        to_ask=row["to_ask"],
        stop=json.loads(row["stop"]),
        submitted=_submitted(json.loads(row["submitted"])),
        provenance=row["provenance"] and json.loads(row["provenance"]),
        frozen=bool(row["frozen"]),
    )


def _submitted(told: dict[str, Any]) -> Submitted:
    return Submitted(told.get("source", ""), tuple(told.get("overrides", ())))
