"""The SQL by which the worker writes: claim, start, finish; each one transaction.

A claim draws the attempt's token, and a report counts only with it while the attempt is open: so
whoever comes late changes nothing. What an outcome means for a run is decided in `next_state.py`.
"""

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.queue.connection import Connection
from orchestrator.queue.history import History
from orchestrator.queue.holds import Holds
from orchestrator.queue.next_state import LONGEST_BACKOFF_S, Next, decide
from orchestrator.queue.queries import HALTED, HELD, TAKEN, Queries
from orchestrator.queue.rows import dump
from orchestrator.run import (
    END_STATES,
    FIRST_SLOT,
    Attempt,
    HoldCode,
    Outcome,
    Progress,
    Run,
    RunState,
    Sweep,
    Verdict,
    stamp,
)
from orchestrator.system.crashpoints import crashpoint

if TYPE_CHECKING:
    # Loading it takes time, which a status must not.
    from orchestrator.stopping.curves import Decision

_NEXT = f"""
    SELECT id FROM runs
    WHERE state = 'queued' AND same_as IS NULL
      AND (not_before IS NULL OR not_before <= :now OR not_before > :horizon)
      AND sweep_id NOT IN ({HELD})
      AND NOT EXISTS ({HALTED})
      AND id NOT IN (SELECT value FROM json_each(:left_out))
      AND sweep_id NOT IN (SELECT value FROM json_each(:left_sweeps))
      AND kind NOT IN (SELECT value FROM json_each(:left_kinds))
    ORDER BY priority DESC, sweep_id, position LIMIT 1
"""

_CLAIM = f"""
    UPDATE runs SET state = 'running', attempt = attempt + 1, deaths = deaths + 1,
        not_before = NULL, request = NULL, reason = NULL, ended = NULL, exit_code = NULL,
        stop_code = NULL, started = coalesce(started, :now), slot = :slot
    WHERE id = ({_NEXT}) AND NOT EXISTS ({TAKEN})
    RETURNING id
"""


@dataclass(frozen=True)
class Before:
    """What lay in the output folder when an attempt began (see Attempt), and where it will log."""

    checkpoint: int
    result: str | None
    log: str


@dataclass
class LeftOut:
    """What a slot does not take: single runs, whole sweeps, all runs of a kind."""

    runs: set[int] = field(default_factory=set)
    sweeps: set[int] = field(default_factory=set)
    kinds: set[str] = field(default_factory=set)


Fits = Callable[[Run], bool]
"""Whether a slot takes a run; where it does not, that is among what it leaves out from then on."""


class Claims:
    """Takes runs for a worker, and records what becomes of their attempts."""

    def __init__(
        self,
        db: Connection,
        queries: Queries,
        history: History,
        holds: Holds,
    ) -> None:
        self._db = db
        self._queries = queries
        self._history = history
        self._holds = holds

    def claim(
        self,
        host: str,
        boot_id: str,
        before: Callable[[Run], Before],
        slot: str = FIRST_SLOT,
        rather_not: Collection[int] = (),
        node: str | None = None,
        left_out: LeftOut | None = None,
        fits: Fits | None = None,
    ) -> tuple[Run, Attempt] | None:
        """Take the next queued run for a slot and open its attempt; None if nothing can be taken.

        The order is priority, sweep, position; of the runs `rather_not` one is taken only where
        there is no other, and none of those `left_out`, to which `fits` may add. The attempt counts
        as a death until its end is explained, so that one that takes the machine down with it is
        counted too. `before` looks at the output folder. `node` is the machine of the slot, where
        that is another one; `host` and `boot_id` are then its own.
        """
        left_out = left_out or LeftOut()
        with self._db.write():
            run = self._take(boot_id, slot, rather_not, node, left_out, fits)
            if run is None:
                return None
            attempt = self._open_attempt(run, host, boot_id, before(run), slot, node)
            crashpoint("store.claiming")
        crashpoint("store.claimed")
        return run, attempt

    def _take(
        self,
        boot_id: str,
        slot: str,
        rather_not: Collection[int],
        node: str | None,
        left_out: LeftOut,
        fits: Fits | None,
    ) -> Run | None:
        for others in (rather_not, ()) if rather_not else ((),):
            while fits and (run := self.coming(boot_id, others, left_out)) and not fits(run):
                pass
            asked = {**self._claimable(boot_id, others, left_out), "slot": slot, "node": node}
            if claimed := self._db.read(_CLAIM, asked):
                return self._queries.run(claimed[0]["id"])
        return None

    def coming(
        self, boot_id: str, others: Collection[int] = (), left_out: LeftOut | None = None
    ) -> Run | None:
        """The run that would be claimed next, were a slot free; `others` and `left_out` are not."""
        found = self._db.read(_NEXT, self._claimable(boot_id, others, left_out or LeftOut()))
        return self._queries.run(found[0]["id"]) if found else None

    def _claimable(
        self, boot_id: str, others: Collection[int], left_out: LeftOut
    ) -> dict[str, str | None]:
        # A clock that was set back must not make a back-off of seconds one of hours.
        horizon = stamp(self._history.now(), 2 * LONGEST_BACKOFF_S)
        return {
            **{"now": self._history.stamp(), "horizon": horizon, "boot_id": boot_id},
            "left_out": dump([*others, *left_out.runs]),
            **{"left_sweeps": dump([*left_out.sweeps]), "left_kinds": dump([*left_out.kinds])},
        }

    def _open_attempt(
        self, run: Run, host: str, boot_id: str, before: Before, slot: str, node: str | None
    ) -> Attempt:
        attempt_id = self._db.insert(
            "INSERT INTO attempts (run_id, n, host, boot_id, checkpoint, result_before, started,"
            " log, slot, token, node) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run.id, run.attempt, host, boot_id),
                *(before.checkpoint, before.result, self._history.stamp(), before.log, slot),
                *(secrets.token_hex(16), node),
            ),
        )
        on = f" on {slot}" if node else ""
        self._history.add("started", f"attempt {run.attempt}{on}", run.sweep_id, run.id)
        return self._queries.attempt(attempt_id)

    def started(self, attempt: Attempt, pid: int | None, pid_started: float | None) -> Attempt:
        """Record the process of an attempt; None: it has none, or one that is not known yet."""
        with self._db.write():
            self._db.execute(
                "UPDATE attempts SET pid = ?, pid_started = ?"
                " WHERE id = ? AND token = ? AND ended IS NULL",
                (pid, pid_started, attempt.id, attempt.token),
            )
        return replace(attempt, pid=pid, pid_started=pid_started)

    def note_changes(self, attempt: Attempt, lines: Sequence[str], *, other: bool) -> None:
        """Record what, of all that the sweep was submitted with, has changed at this launch.

        With `other` the run trains another setting than was submitted: nobody may take it for that.
        """
        with self._db.write():
            if other:
                sql = "UPDATE runs SET identity = NULL WHERE id = ?"
                self._db.execute(sql, (attempt.run_id,))
            self._db.execute(
                "UPDATE attempts SET changed = ? WHERE id = ?", (dump(list(lines)), attempt.id)
            )

    def note_slowed(self, run: Run, words: str) -> None:
        """Keep in a run's history that it has become slow, and by whom, as far as that is known."""
        with self._db.write():
            self._history.add("slowed", words, run.sweep_id, run.id)

    def tick(self, attempt: Attempt, wall_s: float) -> None:
        """Record how long an attempt has trained, so that a dead worker does not forget it.

        Its process too, where that could not be recorded at the start.
        """
        with self._db.write():
            self._db.execute(
                "UPDATE attempts SET wall_s = ?, pid = coalesce(pid, ?),"
                " pid_started = coalesce(pid_started, ?)"
                " WHERE id = ? AND token = ? AND ended IS NULL",
                (wall_s, attempt.pid, attempt.pid_started, attempt.id, attempt.token),
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

        `value` is what the sweep's objective is now, None where the log does not say. Runs that
        share the result get theirs by `Duplicates.read_values`.
        """
        with self._db.write():
            if not self._close_attempt(attempt, outcome, wall_s):
                return None
            run = self._queries.run(attempt.run_id)
            sweep = self._queries.sweep_of(run)
            earlier = self._queries.earlier_deaths(run, attempt)
            previous = self._queries.verdict_before(attempt)
            now = self._history.now()
            then = decide(run, sweep.retry, outcome, newer_checkpoint, now, earlier, previous)
            self._leave_running(run, outcome, then, progress, wall_s, value)
            self._count_failures(sweep, run, outcome, then)
            if then.halt:
                self._halt(attempt, then.halt)
            self._history.add(str(then.state), then.reason or outcome.reason, run.sweep_id, run.id)
            ended = self._queries.run(attempt.run_id)
            crashpoint("store.finishing")
        crashpoint("store.finished")
        return ended

    def _halt(self, attempt: Attempt, reason: str) -> None:
        """Halt what has the GPU that hangs: the queue, or one node."""
        if attempt.node is None:
            self._holds.halt(HoldCode.GPU_HANG, reason, attempt.boot_id)
        else:
            self._holds.pause_node(attempt.node, reason, attempt.boot_id)

    def _close_attempt(self, attempt: Attempt, outcome: Outcome, wall_s: float) -> bool:
        changed = self._db.execute(
            "UPDATE attempts SET ended = ?, exit_code = ?, signal = ?, outcome = ?, reason = ?,"
            " evidence = ?, wall_s = ? WHERE id = ? AND token = ? AND ended IS NULL",
            (
                *(self._history.stamp(), outcome.exit_code, outcome.signal, str(outcome.verdict)),
                *(outcome.reason, outcome.evidence, wall_s, attempt.id, attempt.token),
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
        ended = self._history.stamp() if then.state in END_STATES else None
        # A cancel that came first is the user's word, whatever a rule asked for.
        ruled = then.state in (RunState.PRUNED, RunState.FAILED)
        self._db.execute(
            "UPDATE runs SET state = ?, reason = ?, request = NULL, deaths = ?, not_before = ?,"
            ' "update" = ?, updates_total = ?, metrics = ?, value = ?, wall_s = wall_s + ?,'
            " exit_code = ?, ended = ?, stop_code = ?, rung = ?, slot = NULL"
            " WHERE id = ? AND state = 'running'",
            (
                *(str(then.state), then.reason, then.deaths, then.not_before),
                *(progress.update, progress.updates_total, dump(progress.metrics), value),
                *(wall_s, outcome.exit_code, ended, outcome.stop_code if ruled else None),
                *(progress.update if outcome.verdict is Verdict.HELD else None, run.id),
            ),
        )

    def leave_rung(self, run_id: int, decision: "Decision | None") -> Run | None:
        """Let a run that waits at a rung go on, or prune it by a decision; None if it has left."""
        with self._db.write():
            run = self._queries.run(run_id)
            if run.state is not RunState.PAUSED or run.rung is None:
                return None
            new = RunState.QUEUED if decision is None else RunState.PRUNED
            reason = None if decision is None else f"{decision.reason} ({decision.evidence})"
            self._db.execute(
                "UPDATE runs SET state = ?, reason = ?, rung = NULL, ended = ?, stop_code = ?"
                " WHERE id = ?",
                (
                    *(str(new), reason, self._history.stamp() if decision else None),
                    *(decision.code if decision else None, run_id),
                ),
            )
            self._history.add(str(new), reason or "goes on from its rung", run.sweep_id, run_id)
        return self._queries.run(run_id)

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
                self._holds.hold(sweep.id, HoldCode.FAILURES, words)
        elif then.state in (RunState.COMPLETED, RunState.PRUNED):
            self._db.execute(
                "UPDATE sweeps SET fail_streak = 0, fail_verdict = NULL WHERE id = ?", (sweep.id,)
            )
