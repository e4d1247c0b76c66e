"""What waits and why, what comes next, and measured times: what a status asks of the queue.

Reads only; for status, watch and show. How long the rest takes is computed in `eta.py`.
"""

import itertools
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from orchestrator.queue.connection import Connection
from orchestrator.queue.queries import HALTED, HELD, Queries
from orchestrator.queue.rows import RUN, overrides_in, run_of
from orchestrator.results.objective import differing_keys
from orchestrator.run import HoldCode, Run, RunState, Share, Sweep, stamp

# So many of the latest ended runs show how much the times of equal runs differ.
_SAMPLE = 64

# So many of the latest ones show how fast each machine is.
_TIMED = 300

_ENDED_WELL = (RunState.COMPLETED, RunState.PRUNED, RunState.CANCELLED)

# Each by itself: the type of what is no JSON is an error. Another program may have written it.
_WHOLE = " AND ".join(
    f"CASE WHEN json_valid(r.{column}) THEN json_type(r.{column}) END = '{kind}'"
    for column, kind in (("overrides", "object"), ("metrics", "object"))
)

_LIVE = "state IN ('queued', 'running', 'paused')"


class StatusQueries:
    """Reads the queue through a connection, for people."""

    def __init__(self, db: Connection, queries: Queries, now: Callable[[], datetime]) -> None:
        self._db = db
        self._queries = queries
        self._now = now

    def sample(self, sweep_id: int) -> list[tuple[str, float]]:
        """(kind, seconds) of the sweep's latest runs that were trained to their end."""
        rows = self._db.read(
            "SELECT kind, wall_s FROM runs WHERE sweep_id = ? AND state = 'completed'"
            " ORDER BY position DESC LIMIT ?",
            (sweep_id, _SAMPLE),
        )
        return [(row[0], row[1]) for row in rows if row[1] > 0]

    def speeds(self) -> dict[str | None, float]:
        """How fast each node is, and this machine (None), against the mean: 2.0 is twice as fast.

        By the latest runs that were trained in one go, each against those of its kind; empty where
        no kind was trained in two places.
        """
        rows = self._db.read(
            "SELECT r.kind, a.node, count(*), sum(r.wall_s) FROM (SELECT run_id, node FROM attempts"
            " WHERE outcome = 'completed' AND n = 1 ORDER BY id DESC LIMIT ?) a"
            " JOIN runs r ON r.id = a.run_id WHERE r.wall_s > 0 GROUP BY 1, 2",
            (_TIMED,),
        )
        kinds: dict[str, list[tuple[str | None, int, float]]] = {}
        for kind, node, n, wall_s in rows:
            kinds.setdefault(kind, []).append((node, n, wall_s))
        found: dict[str | None, tuple[int, float]] = {}
        for places in kinds.values():
            if len(places) < 2:
                continue
            mean_s = sum(wall_s for _, _, wall_s in places) / sum(n for _, n, _ in places)
            for node, n, wall_s in places:
                before, ratios = found.get(node, (0, 0.0))
                found[node] = (before + n, ratios + n * mean_s / (wall_s / n))
        return {node: ratios / n for node, (n, ratios) in found.items()}

    def similar_runs(self, sweep: Sweep) -> list[Share]:
        """The completed runs of other sweeps over the same base config, counted by kind."""
        rows = self._db.read(
            "SELECT kind, n, timed, wall_s FROM totals WHERE state = 'completed' AND timed > 0"
            " AND sweep_id IN (SELECT id FROM sweeps WHERE config_text = ? AND id <> ?)",
            (sweep.config_text, sweep.id),
        )
        return [Share(RunState.COMPLETED, *row) for row in rows]

    def waiting_duplicates(self, sweep_id: int) -> Mapping[str, int]:
        """How many queued runs of each kind only wait for the same run of another sweep."""
        rows = self._db.read(
            "SELECT kind FROM runs INDEXED BY runs_same WHERE same_as IS NOT NULL"
            " AND sweep_id = ? AND state = 'queued'",
            (sweep_id,),
        )
        return Counter(row[0] for row in rows)

    def seeds(self, sweep_id: int) -> int:
        """How many seeds a setting of this sweep has."""
        rows = self._db.read(
            "SELECT count(DISTINCT seed) FROM runs WHERE sweep_id = ?", (sweep_id,)
        )
        return max(1, int(rows[0][0]))

    def best_run(self, sweep: Sweep) -> Run | None:
        """The completed run with the best value of the objective; reads all runs of the sweep."""
        most = "max" if sweep.objective.goal == "max" else "min"
        done = "sweep_id = :id AND state = 'completed'"
        rows = self._db.read(
            f"{RUN} WHERE r.sweep_id = :id AND r.state = 'completed' AND r.value ="
            f" (SELECT {most}(value) FROM runs WHERE {done}) ORDER BY r.position LIMIT 1",
            {"id": sweep.id},
        )
        return run_of(rows[0]) if rows else None

    def last_started(self) -> Run | None:
        """The run that runs, else the one that ended or was started last."""
        rows = self._db.read(
            "SELECT run_id FROM attempts ORDER BY ended IS NULL DESC, ended DESC, id DESC LIMIT 1"
        )
        return self._queries.run(rows[0][0]) if rows else None

    def named_like(self, text: str, most: int) -> list[tuple[int, str]]:
        """(id, name) of the latest runs whose id or name begins with a text."""
        begins = "substr({}, 1, length(:text)) = :text"
        rows = self._db.read(
            f"SELECT id, name FROM runs WHERE {begins.format('name')} OR {begins.format('id')}"
            " ORDER BY id DESC LIMIT :most",
            {"text": text, "most": most},
        )
        return [(row[0], row[1]) for row in reversed(rows)]

    def keys_of(self, sweep_id: int) -> list[str]:
        """The parameters that the first runs of a sweep set, in their order."""
        settings = self._settings(sweep_id, "position")
        return list(dict.fromkeys(key for setting in settings for key in setting))

    def swept(self, sweep_id: int) -> tuple[str, ...]:
        """The parameters whose values differ between the first and last runs of a sweep."""
        # The first axis turns slowest: in a long sweep it may have moved only at the end.
        ends = (self._settings(sweep_id, order) for order in ("position", "position DESC"))
        return tuple(differing_keys(itertools.chain.from_iterable(ends)))

    def _settings(self, sweep_id: int, order: str) -> list[dict[str, Any]]:
        rows = self._db.read(
            f"SELECT overrides FROM runs WHERE sweep_id = ? ORDER BY {order} LIMIT 100",
            (sweep_id,),
        )
        return [overrides_in(row["overrides"]) for row in rows]

    def summary_rows(self, sweep_id: int, most: int) -> list[Run]:
        """A screenful of a long sweep, in its order.

        What runs and what failed, some that ended last, what is paused and what comes next.
        """
        found: list[Run] = []
        for states, room in (
            ((RunState.RUNNING, RunState.FAILED), most),
            (_ENDED_WELL, most // 3),
            ((RunState.PAUSED, RunState.QUEUED), most),
            (_ENDED_WELL, most),
        ):
            known = {run.id for run in found}
            here = [r for r in self._edges(sweep_id, states, most) if r.id not in known]
            found += here[: min(room, most - len(found))]
        return sorted(found, key=lambda run: run.position)

    def run_documents(self, sweep_id: int, shape: Callable[[Run], Any]) -> list[tuple[int, str]]:
        """(id, JSON) of every run of a sweep, as `shape` (`json_shapes.run_shape`) makes it.

        By SQLite, which of very many runs takes a tenth of the time; `shape` is for damaged rows.
        """
        rows = self._db.read(
            f"""
            SELECT r.id, CASE WHEN {_WHOLE} THEN
                json_object('id', r.id, 'sweep', s.name, 'name', r.name, 'state', r.state,
                'reason', r.reason, 'overrides', json(r.overrides), 'seed', r.seed,
                'attempt', r.attempt, 'update', r."update", 'updates_total', r.updates_total,
                'metrics', json(r.metrics), 'output_dir', r.folder, 'started', r.started,
                'ended', r.ended, 'exit_code', r.exit_code,
                'stop_code', r.stop_code) END
            FROM runs r JOIN sweeps s ON s.id = r.sweep_id WHERE r.sweep_id = ? ORDER BY r.position
            """,
            (sweep_id,),
        )
        return [(id, text or json.dumps(shape(self._queries.run(id)))) for id, text in rows]

    def _edges(self, sweep_id: int, states: Sequence[RunState], most: int) -> list[Run]:
        """Of those that wait the first ones, of those that ended the last, all states as one."""
        found: list[Run] = []
        for state in states:
            order = "ASC" if state is RunState.QUEUED else "DESC"
            rows = self._db.read(
                f"{RUN} WHERE r.sweep_id = ? AND r.state = ? ORDER BY r.position {order} LIMIT ?",
                (sweep_id, str(state), most),
            )
            found += [run_of(row) for row in rows]
        return sorted(found, key=lambda run: -run.position) if states == _ENDED_WELL else found

    # --- what comes next

    def next_runs(self, boot_id: str, most: int) -> list[Run]:
        """The runs that a worker would take next, in its order; none while the queue stands still.

        One that waits out a back-off stands in its place: by then it may be its turn.
        """
        rows = self._db.read(
            f"{RUN} WHERE r.state = 'queued' AND r.same_as IS NULL AND r.sweep_id NOT IN ({HELD})"
            f" AND NOT EXISTS ({HALTED})"
            " ORDER BY r.priority DESC, r.sweep_id, r.position LIMIT :most",
            {"boot_id": boot_id, "most": most},
        )
        return [run_of(row) for row in rows]

    # --- why what waits waits

    def sweep_waits_for(self, sweep: Sweep) -> str | None:
        """Why no run of the sweep can start, as far as the sweep itself is the reason."""
        if sweep.state not in ("queued", "running", "paused"):
            return None
        if sweep.paused:
            by_user = sweep.hold_code is HoldCode.USER
            words = "paused" if by_user else f"held: {sweep.reason}"
            return f"{words}; go on with: grpo-sweep resume {sweep.name}"
        rows = self._db.read(
            "SELECT o.name FROM sweeps s JOIN sweeps o ON o.id = s.after_id WHERE s.id = ?"
            f" AND EXISTS (SELECT 1 FROM runs WHERE sweep_id = o.id AND {_LIVE})",
            (sweep.id,),
        )
        return f"waits until sweep {rows[0][0]} is done" if rows else None

    def run_waits_for(self, run: Run, boot_id: str) -> list[str]:
        """Everything that keeps a queued or paused run from starting now, a sentence each."""
        if run.state is RunState.PAUSED:
            return [_paused_text(run)]
        if run.state is not RunState.QUEUED:
            return []
        reasons = []
        if halted := self._queries.halted(boot_id):
            reasons.append(f"the queue stands still: {halted}; grpo-sweep resume --queue")
        if held := self.sweep_waits_for(self._queries.sweep_by_id(run.sweep_id)):
            reasons.append(f"sweep {run.sweep} {held}")
        if run.same_as is not None:
            reasons.append(f"run {run.same_as} has the same setting; its result will be shared")
        if run.not_before is not None and run.not_before > stamp(self._now()):
            reasons.append(
                f"tried again not before {run.not_before}, after {run.reason or 'a death'}"
            )
        if not reasons and (ahead := self._ahead(run)):
            reasons.append(f"{ahead} {'run' if ahead == 1 else 'runs'} before it in the queue")
        return reasons

    def _ahead(self, run: Run) -> int:
        """How many runs a worker would take before this one, the running one among them."""
        rows = self._db.read(
            "SELECT count(*) FROM runs WHERE state = 'running' OR (state = 'queued'"
            f" AND same_as IS NULL AND sweep_id NOT IN ({HELD})"
            " AND (-priority, sweep_id, position) < (?, ?, ?))",
            (-run.priority, run.sweep_id, run.position),
        )
        return int(rows[0][0])


def _paused_text(run: Run) -> str:
    if run.rung is not None:
        return f"held at update {run.rung} until the others have come as far; then the best go on"
    return f"paused; go on with: grpo-sweep resume {run.id}"
