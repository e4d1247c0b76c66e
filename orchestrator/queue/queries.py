"""The SQL that lists sweeps, runs and attempts, and finds what can be claimed.

Reads only. What only a status asks is in `status_queries.py`.
"""

import difflib
import functools
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import NothingAffected, UsageError
from orchestrator.queue.connection import Connection
from orchestrator.queue.rows import ATTEMPT, RUN, attempt_of, overrides_in, run_of, sweep_of
from orchestrator.run import (
    FIRST_SLOT,
    Attempt,
    HoldCode,
    Judged,
    Run,
    RunState,
    Share,
    StopRequest,
    Sweep,
    Verdict,
    slot_order,
)

# A sweep that is held keeps its queued runs; `after` holds it until the other has nothing to do.
HELD = """
    SELECT id FROM sweeps h WHERE (paused = 1 OR after_id IS NOT NULL) AND (paused = 1 OR EXISTS (
        SELECT 1 FROM runs WHERE sweep_id = h.after_id
        AND state IN ('queued', 'running', 'paused')))
"""

# The halt of a GPU that hangs ends with the boot in which it hung.
HALTED = "SELECT 1 FROM queue WHERE paused = 1 AND (boot_id IS NULL OR boot_id = :boot_id)"

# What SQLite holds as a whole number is less; another machine may say anything.
_BEYOND = 2**63

# A slot has one run at a time, and none while it or its whole node is paused.
TAKEN = """
    SELECT 1 FROM runs WHERE state = 'running' AND coalesce(slot, '0') = :slot
    UNION ALL SELECT 1 FROM paused_slots WHERE slot = :slot OR slot = :node
"""


@dataclass(frozen=True)
class Waiting:
    """Why nothing can be claimed: `ready_at` is when a back-off ends, `held` names what is held."""

    queued: int
    ready_at: str | None
    held: tuple[str, ...]


class Queries:
    """Reads the queue through a connection."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def sweeps(self, all: bool = False, latest: int = 5) -> list[Sweep]:
        """The unfinished sweeps and the `latest` ones (or all), oldest first."""
        where = "" if all else "WHERE id IN (SELECT sweep_id FROM totals WHERE n > 0 AND state IN "
        if not all:
            where += "('queued', 'running', 'paused')) OR to_ask > 0 OR id IN "
            where += "(SELECT id FROM sweeps ORDER BY id DESC LIMIT :latest)"
        return self._sweeps(where, {"latest": latest})

    def _sweeps(self, where: str, params: dict[str, Any]) -> list[Sweep]:
        rows = self._db.read(f"SELECT * FROM sweeps {where} ORDER BY id", params)
        return [sweep_of(row, self.counts(row["id"])) for row in rows]

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
        return self.sweep_by_id(rows[0][0])

    def sweep_of(self, run: Run) -> Sweep:
        """The sweep that a run belongs to, its counts left out: they take time to count."""
        row = self._db.read("SELECT * FROM sweeps WHERE id = ?", (run.sweep_id,))[0]
        return sweep_of(row, {})

    def sweep_by_id(self, sweep_id: int) -> Sweep:
        """The sweep with this id, which must exist."""
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
        return [run_of(row) for row in self._db.read(f"{RUN} {where} {order}", params)]

    def judged(self, sweep_id: int) -> list[Judged]:
        """Every run of a sweep with the value of its objective, in a tenth of the time of `runs`.

        Runs that set the same share one mapping.
        """
        loads = functools.cache(overrides_in)
        states = {str(state): state for state in RunState}
        return [
            Judged(run_id, states[state], seed, loads(overrides), value)
            for run_id, state, seed, overrides, value in self._db.read(
                "SELECT id, state, seed, overrides, value FROM runs WHERE sweep_id = ?"
                " ORDER BY position",
                (sweep_id,),
            )
        ]

    def begun(self, sweep_id: int) -> list[Run]:
        """The unfinished runs of a sweep that have been started before."""
        # Left alone, SQLite walks through all runs of the sweep, because they come in order there.
        few = RUN.replace("FROM runs r", "FROM runs r INDEXED BY runs_begun")
        rows = self._db.read(
            f"{few} WHERE r.sweep_id = ? AND r.attempt > 0"
            " AND r.state IN ('queued', 'running', 'paused')",
            (sweep_id,),
        )
        return sorted(map(run_of, rows), key=lambda run: run.position)

    def run(self, run_id: int) -> Run:
        """The run with this id; NothingAffected."""
        rows = self._db.read(f"{RUN} WHERE r.id = ?", (run_id,))
        if not rows:
            raise NothingAffected(f"run {run_id}: no such run; see: grpo-sweep status --all")
        return run_of(rows[0])

    def running(self) -> list[Run]:
        """The runs that are running, in the order of their slots."""
        found = [run_of(row) for row in self._db.read(f"{RUN} WHERE r.state = 'running'")]
        return sorted(found, key=lambda run: slot_order(run.slot or FIRST_SLOT))

    def trainer_pids(self) -> list[int]:
        """The pids of all trainers that run on this machine, as far as they are recorded."""
        rows = self._db.read(
            "SELECT a.pid FROM runs r JOIN attempts a ON a.run_id = r.id"
            " WHERE r.state = 'running' AND a.ended IS NULL AND a.pid IS NOT NULL"
            " AND a.node IS NULL ORDER BY a.id"
        )
        return [row[0] for row in rows]

    def paused_slots(self) -> dict[str, str]:
        """The slots that take no run until they are resumed, and why.

        A node stands for all of its own.
        """
        rows = self._db.read("SELECT slot, reason FROM paused_slots")
        return dict(sorted(map(tuple, rows), key=lambda row: slot_order(row[0])))

    def is_wanted(self, run_id: int, n: int, token: str) -> bool | None:
        """Whether this queue still waits for an attempt that a node holds.

        None where it is none of this queue: then the database was copied, and somebody else serves
        the copy.
        """
        if max(run_id, n) >= _BEYOND:
            return None
        rows = self._db.read(
            "SELECT token = ?, ended IS NULL FROM attempts WHERE run_id = ? AND n = ?",
            (token, run_id, n),
        )
        if rows:
            return bool(rows[0][1]) if rows[0][0] else None
        # A run that was removed has left its number behind.
        highest = self._db.read("SELECT seq FROM sqlite_sequence WHERE name = 'runs'")
        was_here = bool(highest) and run_id <= highest[0][0]
        still = self._db.read("SELECT 1 FROM runs WHERE id = ?", (run_id,))
        return False if was_here and not still else None

    def peak_bytes(self, sweep_id: int, kind: str) -> int | None:
        """The most memory that the last runs of a kind took; None where none has ended."""
        rows = self._db.read(
            "SELECT max(json_extract(metrics, '$.peak_bytes')) FROM (SELECT kind, metrics FROM runs"
            " WHERE sweep_id = ? AND state = 'completed' ORDER BY position DESC LIMIT 50)"
            " WHERE kind = ?",
            (sweep_id, kind),
        )
        peak = rows[0][0]
        return int(peak) if isinstance(peak, int | float) else None

    def queue_name(self) -> str:
        """What the queue is called on other machines."""
        return str(self._db.read("SELECT name FROM queue")[0][0])

    def attempts(self, run_id: int) -> list[Attempt]:
        """Every attempt of the run, the first one first."""
        rows = self._db.read(f"{ATTEMPT} WHERE run_id = ? ORDER BY n", (run_id,))
        return [attempt_of(row) for row in rows]

    def verdict_before(self, attempt: Attempt) -> Verdict | None:
        """How the attempt before this one in its slot ended, of any run; None: it is the first.

        An attempt before the machine's last start does not count.
        """
        rows = self._db.read(
            "SELECT outcome FROM attempts WHERE id < ? AND boot_id = ? AND slot = ?"
            " AND ended IS NOT NULL ORDER BY id DESC LIMIT 1",
            (attempt.id, attempt.boot_id, attempt.slot),
        )
        return Verdict(rows[0][0]) if rows else None

    def earlier_deaths(self, run: Run, attempt: Attempt) -> list[Verdict]:
        """How those attempts ended that `run.deaths` counts before this one, the newest first."""
        rows = self._db.read(
            "SELECT outcome FROM attempts WHERE run_id = ? AND id < ? AND ended IS NOT NULL"
            " ORDER BY id DESC LIMIT ?",
            (run.id, attempt.id, max(0, run.deaths - 1)),
        )
        return [Verdict(row[0]) for row in rows]

    def find_runs(self, ref: str) -> list[Run]:
        """The runs that `ref` means: an id `12`, a range `3-7`, a sweep's name, `@`, a run's name.

        A run's name may have its sweep's before it, as in `lr/lr1e-5-g8`. Raises NothingAffected
        when there are none, and UsageError where several sweeps have a run of that name.
        """
        if _is_id(ref):
            return [self.run(int(ref))]
        if (span := re.fullmatch(r"(\d{1,18})-(\d{1,18})", ref)) and not self._is_name(ref):
            ids = (int(span[1]), int(span[2]))
            rows = self._db.read(f"{RUN} WHERE r.id BETWEEN ? AND ? ORDER BY r.id", ids)
            if not rows:
                raise NothingAffected(f"{ref}: no run has an id in this range")
            return [run_of(row) for row in rows]
        if not ref.startswith("@") and not self._is_name(ref) and (named := self.runs_named(ref)):
            if len(named) > 1:
                names = ", ".join(f"{run.id} (sweep {run.sweep})" for run in named[:8])
                raise UsageError(
                    f"{ref}: {len(named)} runs have this name: {names}; say which by its id, "
                    f"or as {named[-1].sweep}/{ref}"
                )
            return named
        return self.runs(self.sweep(ref).id)

    def runs_named(self, ref: str) -> list[Run]:
        """The runs of that name, in any sweep or as `SWEEP/NAME`; none where it is no name."""
        sweep, slash, name = ref.rpartition("/")
        where = "r.name = ? AND s.name = ?" if slash else "r.name = ?"
        params = (name, sweep) if slash else (ref,)
        rows = self._db.read(f"{RUN} WHERE {where} ORDER BY r.id", params)
        return [run_of(row) for row in rows]

    def _is_name(self, ref: str) -> bool:
        return bool(self._db.read("SELECT 1 FROM sweeps WHERE name = ?", (ref,)))

    def request(self, run_id: int) -> StopRequest | None:
        """What a user asks of this run, if anything. Cheap enough to poll."""
        rows = self._db.read("SELECT request FROM runs WHERE id = ?", (run_id,))
        return StopRequest(rows[0][0]) if rows and rows[0][0] else None

    def trained_s(self, sweep_id: int, but: Attempt | None = None) -> float:
        """Seconds that the attempts of a sweep have trained, those that run included.

        `but` is left out while it has not ended.
        """
        ended = self._db.read("SELECT sum(wall_s) FROM totals WHERE sweep_id = ?", (sweep_id,))
        open_ones = self._db.read(
            "SELECT sum(a.wall_s) FROM runs r JOIN attempts a ON a.run_id = r.id"
            " WHERE r.state = 'running' AND r.sweep_id = ? AND a.ended IS NULL AND a.id IS NOT ?",
            (sweep_id, but and but.id),
        )
        return float(ended[0][0] or 0.0) + float(open_ones[0][0] or 0.0)

    def folders(self, sweep_id: int) -> list[Path]:
        """The output folders of the sweep's runs that have begun."""
        sql = "SELECT folder FROM runs WHERE sweep_id = ? AND attempt > 0"
        return [Path(row[0]) for row in self._db.read(sql, (sweep_id,))]

    def folders_in_use(self) -> list[str]:
        """The output folders of all runs that are still to be trained."""
        sql = "SELECT folder FROM runs WHERE state IN ('queued', 'running', 'paused')"
        return [row[0] for row in self._db.read(sql)]

    def halted(self, boot_id: str) -> str | None:
        """Why the whole queue stands still, if it does."""
        rows = self._db.read(
            f"SELECT reason FROM queue WHERE EXISTS ({HALTED})", {"boot_id": boot_id}
        )
        return str(rows[0][0] or "the queue is paused") if rows else None

    def halt_code(self, boot_id: str) -> HoldCode | None:
        """What halts the whole queue, if it stands still."""
        rows = self._db.read(
            f"SELECT halt_code FROM queue WHERE EXISTS ({HALTED})", {"boot_id": boot_id}
        )
        return HoldCode(rows[0][0]) if rows else None

    def waiting(self, boot_id: str) -> Waiting:
        """What is queued, and why it cannot be claimed."""
        queued = self._db.read("SELECT sum(n) FROM totals WHERE state = 'queued'")[0][0] or 0
        ready = self._db.read(
            "SELECT min(coalesce(not_before, '')) FROM runs WHERE state = 'queued'"
            f" AND same_as IS NULL AND sweep_id NOT IN ({HELD})"
        )[0][0]
        halted = self.halted(boot_id)
        held = self._db.read(
            f"SELECT name, reason FROM sweeps WHERE id IN ({HELD}) AND id IN"
            " (SELECT sweep_id FROM totals WHERE state = 'queued' AND n > 0) ORDER BY id"
        )
        words = [f"sweep {name} is held: {why or 'it waits for another'}" for name, why in held]
        words += [f"slot {slot} is paused" for slot in self.paused_slots()]
        if halted:
            return Waiting(queued, None, (f"the queue stands still: {halted}", *words))
        return Waiting(queued, ready, tuple(words))

    def awaiting_suggestion(self) -> list[Sweep]:
        """The sweeps that choose their next setting once a slot is free: nothing of them waits."""
        return self._sweeps(
            f"WHERE to_ask > 0 AND id NOT IN ({HELD}) AND NOT EXISTS (SELECT 1 FROM runs WHERE"
            " sweep_id = sweeps.id AND state = 'queued')",
            {},
        )

    def at_rung(self) -> list[Sweep]:
        """The sweeps in which every run has ended or waits at a rung of halving."""
        return self._sweeps(
            "WHERE id IN (SELECT sweep_id FROM runs WHERE state = 'paused' AND rung IS NOT NULL)"
            " AND NOT EXISTS (SELECT 1 FROM runs WHERE sweep_id = sweeps.id AND (state IN"
            " ('queued', 'running') OR (state = 'paused' AND rung IS NULL)))",
            {},
        )

    def damage(self) -> str | None:
        """What SQLite reports as wrong with the file; None where it is whole.

        QueueError where it cannot even be read.
        """
        found = str(self._db.read("PRAGMA quick_check(1)")[0][0])
        return None if found == "ok" else found

    def folder_owner(self, run: Run) -> int | None:
        """The other run that is still to be trained in this run's folder, if there is one."""
        rows = self._db.read(
            "SELECT id FROM runs WHERE folder = (SELECT folder FROM runs WHERE id = ?1)"
            " AND state IN ('queued', 'running', 'paused') AND id <> ?1",
            (run.id,),
        )
        return int(rows[0][0]) if rows else None

    def shown_elsewhere(self, folders: Sequence[Path]) -> set[Path]:
        """Which of these folders belong to a run of the queue."""
        known = {row[0] for row in self._db.read("SELECT folder FROM runs")}
        return {folder for folder in folders if os.path.normpath(folder) in known}

    def attempt(self, attempt_id: int) -> Attempt:
        """The attempt with this id, which must exist."""
        return attempt_of(self._db.read(f"{ATTEMPT} WHERE id = ?", (attempt_id,))[0])


def _is_id(ref: str) -> bool:
    return ref.isascii() and ref.isdigit() and len(ref) <= 18
