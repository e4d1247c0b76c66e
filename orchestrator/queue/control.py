"""The SQL of what users ask for: cancel, pause, resume, retry, move, remove.

Each is one transaction, and changes what may be changed: see TRANSITIONS in `run.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict

from orchestrator.errors import NothingAffected
from orchestrator.queue import schema
from orchestrator.queue.connection import Connection
from orchestrator.queue.history import History
from orchestrator.queue.holds import Holds
from orchestrator.queue.limits import lift
from orchestrator.queue.queries import Queries
from orchestrator.queue.rows import dump
from orchestrator.run import (
    ASKED,
    END_STATES,
    TRANSITIONS,
    HoldCode,
    Run,
    RunState,
    StopRequest,
    slot_order,
)


class Control:
    """Changes that users ask for; each returns what it changed, NothingAffected if nothing."""

    def __init__(self, db: Connection, queries: Queries, history: History, holds: Holds) -> None:
        self._db = db
        self._queries = queries
        self._history = history
        self._holds = holds

    def cancel(self, run_ids: Sequence[int]) -> list[Run]:
        """Cancel runs; a running one when the worker gets to it (`request`). The changed runs.

        Raises NothingAffected when no run could be changed.
        """
        return self._control(run_ids, RunState.CANCELLED, StopRequest.CANCEL, "cancelled")

    def pause(self, run_ids: Sequence[int]) -> list[Run]:
        """Hold queued runs back; a running one checkpoints and frees the GPU. The changed runs.

        Raises NothingAffected when no run could be changed.
        """
        return self._control(run_ids, RunState.PAUSED, StopRequest.PAUSE, "paused")

    def resume(self, run_ids: Sequence[int]) -> list[Run]:
        """Queue paused runs again. Raises NothingAffected when no run could be changed."""
        return self._control(run_ids, RunState.QUEUED, None, None, only=(RunState.PAUSED,))

    def retry(self, run_ids: Sequence[int]) -> list[Run]:
        """Queue failed or cancelled runs again, to go on from their checkpoints.

        One in whose folder another run is still to be trained stays as it is.
        Raises NothingAffected when no run could be changed.
        """
        given_up = (RunState.FAILED, RunState.CANCELLED)
        return self._control(run_ids, RunState.QUEUED, None, None, only=given_up)

    def _control(
        self,
        run_ids: Sequence[int],
        new: RunState,
        request: StopRequest | None,
        reason: str | None,
        only: tuple[RunState, ...] = (),
    ) -> list[Run]:
        with self._db.write():
            runs = [self._queries.run(run_id) for run_id in run_ids]
            changed = [run for run in runs if self._change(run, new, request, reason, only)]
            if not changed:
                raise NothingAffected(self._why_not(runs, new, only))
        return [self._queries.run(run.id) for run in changed]

    def _why_not(self, runs: Sequence[Run], new: RunState, only: tuple[RunState, ...]) -> str:
        for run in runs:
            if _may(run, new, only) and (owner := self._queries.folder_owner(run)):
                words = f"run {run.id} is {run.state}, and its folder belongs to run {owner}"
                return f"nothing changed: {words}"
        return _illegal(runs, new, only)

    def _change(
        self,
        run: Run,
        new: RunState,
        request: StopRequest | None,
        reason: str | None,
        only: tuple[RunState, ...],
    ) -> bool:
        if run.state is RunState.RUNNING and request is not None:
            # Cancel outranks pause; asking twice for the same changes nothing.
            if run.request in (request, StopRequest.CANCEL):
                return False
            self._db.execute("UPDATE runs SET request = ? WHERE id = ?", (str(request), run.id))
            self._history.add("asked", request, run.sweep_id, run.id)
            return True
        if not _may(run, new, only):
            return False
        if new is RunState.QUEUED and self._queries.folder_owner(run) is not None:
            return False
        ended = self._history.stamp() if new in END_STATES else None
        deaths = 0 if run.state in END_STATES else run.deaths
        # Meanwhile another sweep may have queued the same setting: then this one is trained too,
        # and so is one that was cancelled while it waited for another's result.
        self._db.execute(
            "UPDATE runs SET state = ?1, reason = ?2, ended = ?3, deaths = ?4, not_before = NULL,"
            " stop_code = NULL, rung = NULL,"
            " same_as = CASE WHEN state <> 'cancelled' THEN same_as END,"
            " again = again OR (?1 = 'queued'"
            " AND (same_as IS NULL OR state = 'cancelled') AND EXISTS"
            " (SELECT 1 FROM runs o WHERE o.identity = runs.identity AND o.id <> runs.id"
            f" AND {schema.owner('o')})) WHERE id = ?5",
            (str(new), reason, ended, deaths, run.id),
        )
        self._history.add(str(new), reason or "asked for", run.sweep_id, run.id)
        return True

    def pause_sweep(self, sweep_id: int, reason: str = "paused") -> None:
        """Start no more runs of this sweep. Raises NothingAffected if it is held already."""
        with self._db.write():
            sweep = self._queries.sweep_by_id(sweep_id)
            if sweep.paused:
                raise NothingAffected(f"sweep {sweep.name} is paused already: {sweep.reason}")
            self._holds.hold(sweep_id, HoldCode.USER, reason)

    def resume_sweep(self, sweep_id: int) -> None:
        """Let a held sweep go on, its count of failures at 0, without the limit that held it.

        Raises NothingAffected.
        """
        with self._db.write():
            sweep = self._queries.sweep_by_id(sweep_id)
            if not sweep.paused:
                raise NothingAffected(f"sweep {sweep.name} is not paused")
            lifted = lift(sweep.limits, sweep.hold_code)
            frozen = sweep.frozen and sweep.hold_code is not HoldCode.CHANGED
            self._db.execute(
                "UPDATE sweeps SET paused = 0, fail_streak = 0, fail_verdict = NULL, limits = ?,"
                " frozen = ?, hold_code = NULL, reason = NULL WHERE id = ?",
                (dump(asdict(lifted)), int(frozen), sweep_id),
            )
            self._history.add("resumed", "asked for", sweep_id)

    def pause_queue(self, reason: str = "paused") -> list[Run]:
        """Start no more runs at all; what runs checkpoints and waits.

        Those runs; the worker does their `request`. Raises NothingAffected if it was paused.
        """
        with self._db.write():
            if self._db.read("SELECT 1 FROM queue WHERE paused = 1 AND halt_code = 'user'"):
                raise NothingAffected("the queue is paused already")
            self._holds.halt(HoldCode.USER, reason, None)
            return self._stop(self._queries.running())

    def _stop(self, running: list[Run]) -> list[Run]:
        """Ask runs to checkpoint and go back into the queue."""
        for run in running:
            if run.request is None:
                self._db.execute("UPDATE runs SET request = 'stop' WHERE id = ?", (run.id,))
        return running

    def pause_slot(self, slot: str, slots: Collection[str]) -> list[Run]:
        """Start no more runs in this slot; what runs there checkpoints and is free for another.

        Those runs. A node stands for all of its slots. `slots` are the slots and nodes of the
        worker. Raises NothingAffected if the slot was paused, or is none of them and trains
        nothing: a mistake would stay for long.
        """
        with self._db.write():
            known = {*slots, *(run.slot for run in self._queries.running() if run.slot)}
            if not known:
                raise NothingAffected("no worker runs; its slots are those that work --slots names")
            if slot not in known:
                names = ", ".join(sorted(known, key=slot_order))
                raise NothingAffected(f"slot {slot}: no such slot; there are {names}")
            if slot in self._queries.paused_slots():
                raise NothingAffected(f"slot {slot} is paused already")
            self._db.execute(
                "INSERT INTO paused_slots (slot, reason, at) VALUES (?, ?, ?)",
                (slot, ASKED, self._history.stamp()),
            )
            self._history.add("paused", f"slot {slot}", None)
            return self._stop(
                [run for run in self._queries.running() if f"{run.slot}/".startswith(f"{slot}/")]
            )

    def resume_slot(self, slot: str) -> None:
        """Let a slot take runs again. Raises NothingAffected if it was not paused."""
        with self._db.write():
            if not self._db.execute("DELETE FROM paused_slots WHERE slot = ?", (slot,)):
                node = slot.partition("/")[0]
                if node != slot and node in self._queries.paused_slots():
                    words = f"slot {slot} is paused with its node: resume --slot {node}"
                    raise NothingAffected(words)
                raise NothingAffected(f"slot {slot} is not paused")
            self._history.add("resumed", f"slot {slot}", None)

    def resume_queue(self) -> None:
        """Let the queue go on. Raises NothingAffected if it was not paused."""
        with self._db.write():
            changed = self._db.execute(
                "UPDATE queue SET paused = 0, halt_code = NULL, reason = NULL, boot_id = NULL"
                " WHERE paused = 1"
            )
            if not changed:
                raise NothingAffected("the queue is not paused")
            self._history.add("resumed", "asked for", None)

    def move_first(self, run_ids: Sequence[int]) -> list[Run]:
        """Put queued runs before all others, in the order given. Raises NothingAffected."""
        with self._db.write():
            runs = [self._queries.run(run_id) for run_id in run_ids]
            queued = [run for run in runs if run.state is RunState.QUEUED]
            if not queued:
                raise NothingAffected(_illegal(runs, RunState.RUNNING, (RunState.QUEUED,)))
            top = self._db.read("SELECT max(priority) FROM runs WHERE state = 'queued'")[0][0]
            for rank, run in enumerate(reversed(queued), start=1):
                sql = "UPDATE runs SET priority = ? WHERE id = ?"
                self._db.execute(sql, (top + rank, run.id))
        return [self._queries.run(run.id) for run in queued]

    def remove(self, run_ids: Sequence[int]) -> list[Run]:
        """Forget runs, and sweeps that hold none any more; files stay.

        Returns what was removed. NothingAffected, and nothing is forgotten, where one of them runs.
        """
        with self._db.write():
            gone = [self._queries.run(run_id) for run_id in run_ids]
            if running := [run for run in gone if run.state is RunState.RUNNING]:
                words = f"run {running[0].id} is running; cancel it first"
                raise NothingAffected(f"{words}; nothing was removed" if gone[1:] else words)
            for run in gone:
                self._db.execute("DELETE FROM runs WHERE id = ?", (run.id,))
                self._history.add("removed", run.name, run.sweep_id, run.id)
            for sweep_id in {run.sweep_id for run in gone}:
                self._db.execute(
                    "DELETE FROM sweeps WHERE id = ?1 AND NOT EXISTS"
                    " (SELECT 1 FROM runs WHERE sweep_id = ?1)",
                    (sweep_id,),
                )
        return gone


def _may(run: Run, new: RunState, only: tuple[RunState, ...]) -> bool:
    return new in TRANSITIONS[run.state] and (not only or run.state in only)


def _illegal(runs: Sequence[Run], new: RunState, only: tuple[RunState, ...]) -> str:
    if not runs:
        return "no run was named"
    need = f" (only {' or '.join(only)} ones can)" if only else ""
    words = [f"run {run.id} is {run.state}" + _asked(run) for run in runs[:3]]
    more = f" and {len(runs) - 3} more" if len(runs) > 3 else ""
    return f"nothing changed: {', '.join(words)}{more}, and cannot become {new}{need}"


def _asked(run: Run) -> str:
    return f" and asked to {run.request}" if run.request else ""
