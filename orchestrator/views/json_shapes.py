"""The JSON that `--json` prints, on which programs rely (docs/json.md).

Ids are integers, times ISO 8601 in UTC, what is unknown is null. Pure.
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from grpo_core.run.atomic import finite
from orchestrator.queue.eta import Span
from orchestrator.results.illnesses import Illness
from orchestrator.results.leaderboard import Level, RankedSetting
from orchestrator.results.samples import Sample
from orchestrator.results.slowdown import Slowdown
from orchestrator.results.stats import Comparison
from orchestrator.run import Attempt, Objective, Progress, Run, RunState, Sweep, stamp
from orchestrator.views.json_text import JsonText
from orchestrator.views.overview import Overview
from orchestrator.views.run_details import RunDetails
from orchestrator.views.run_diff import RunDiff
from orchestrator.worker.serving import ServingWorker

Shape = dict[str, Any]


def status_shape(
    worker: ServingWorker | None,
    view: Overview,
    documents: Iterable[tuple[int, str]],
    warnings: Sequence[tuple[int, Slowdown | Illness]] = (),
) -> Shape:
    """`status --json`; `queue` is about all sweeps that are neither done nor held.

    `documents` are the runs as (id, JSON), each as it was recorded last; `warnings` are about
    runs that train, by their ids.
    """
    return {
        "worker": {
            "alive": worker is not None,
            "pid": worker and worker.pid,
            "stopped": worker is not None and worker.stopped,
            "waits": worker and worker.waits,
        },
        "slots": [
            {"slot": slot.name, "paused": slot.paused, "run": slot.run} for slot in view.slots
        ],
        "nodes": [
            {
                **{"node": node.name, "host": node.host, "backend": node.backend},
                **{"memory_bytes": node.memory_bytes, "slots": node.slots},
                **{"speed": view.speeds.get(node.name), "away_since": node.away_since},
                "refused": node.unfit,
            }
            for node in (worker.nodes if worker else ())
        ],
        "queue": {
            "halted": view.halted,
            "suspended": next(iter(view.suspended.values()), None),
            "next": [run.id for run in view.next_runs],
            **_eta(view.whole),
        },
        "sweeps": [
            sweep_shape(sweep, view.left[sweep.id], view.waits_for.get(sweep.id))
            for sweep in view.sweeps
        ],
        "runs": [
            JsonText(_with_progress(text, view.progress.get(run_id))) for run_id, text in documents
        ],
        "warnings": [{"run": run_id, **warning_shape(one)} for run_id, one in warnings],
    }


def warning_shape(warning: Slowdown | Illness) -> Shape:
    """What a user should know of a run; `since` is known of a slowdown only."""
    if isinstance(warning, Slowdown):
        return {"code": "slowed", "text": str(warning), "since": stamp(warning.since)}
    return {"code": warning.code.name.lower(), "text": str(warning), "since": None}


def _with_progress(document: str, now: Progress | None) -> str:
    return document if now is None else json.dumps(json.loads(document) | _progress_shape(now))


def _progress_shape(now: Progress) -> Shape:
    return {
        "update": now.update,
        "updates_total": now.updates_total,
        "metrics": finite(now.metrics),
    }


def _eta(left: Span | None) -> Shape:
    """Seconds until something is done: the likeliest, and the range; null where unknown."""
    return {
        "eta_s": None if left is None else left.likely_s,
        "eta_range_s": None if left is None else [left.low_s, left.high_s],
    }


def sweep_shape(sweep: Sweep, left: Span | None, waits_for: str | None = None) -> Shape:
    """A sweep in `status --json`; every state has its count."""
    return {
        "id": sweep.id,
        "name": sweep.name,
        "state": sweep.state,
        "counts": {str(state): sweep.counts.get(state, 0) for state in RunState},
        "to_ask": sweep.to_ask,
        "waits_for": waits_for,
        **_eta(left),
    }


def run_shape(run: Run, progress: Progress) -> Shape:
    """A run; `StatusQueries.run_documents` makes the same in SQL."""
    return {
        "id": run.id,
        "sweep": run.sweep,
        "name": run.name,
        "state": str(run.state),
        "reason": run.reason,
        "overrides": run.overrides,
        "seed": run.seed,
        "attempt": run.attempt,
        **_progress_shape(progress),
        "output_dir": str(run.folder),
        "started": run.started,
        "ended": run.ended,
        "exit_code": run.exit_code,
        "stop_code": run.stop_code,
    }


def recorded_shape(run: Run) -> Shape:
    """A run as the queue has recorded it."""
    return run_shape(run, Progress(run.update, run.updates_total, run.metrics))


def show_shape(details: RunDetails, warnings: Sequence[Slowdown | Illness] = ()) -> Shape:
    """`show --json`."""
    return {
        **run_shape(details.run, details.progress),
        "warnings": [warning_shape(warning) for warning in warnings],
        "waits_for": list(details.waits_for),
        "base": dict(details.base),
        "command": list(details.command),
        "attempts": [attempt_shape(attempt) for attempt in details.attempts],
        "history": [
            {"at": event.at, "kind": event.kind, "text": event.text} for event in details.history
        ],
    }


def attempt_shape(attempt: Attempt) -> Shape:
    """An attempt in `show --json`."""
    names = (
        *("n", "host", "node", "slot", "pid", "started", "ended", "exit_code", "signal", "outcome"),
        *("reason", "evidence", "log"),
    )
    return {name: getattr(attempt, name) for name in names}


def diff_shape(runs: Sequence[Shape], diff: RunDiff) -> Shape:
    """`show A B --json`; `runs` are the two runs as `show` has each."""
    return {
        "runs": list(runs),
        "settings": {key: list(pair) for key, pair in diff.settings.items()},
        "versions": {key: list(pair) for key, pair in diff.versions.items()},
        "metrics": {key: list(pair) for key, pair in diff.metrics.items()},
        "log": diff.log and {"update": diff.log.update, "metrics": list(diff.log.metrics)},
        "completion": diff.completion
        and {
            "update": diff.completion.one.update,
            "held_out": diff.completion.one.held_out,
            "same_prompt": diff.completion.same_prompt,
            "samples": [_sample_shape(diff.completion.one), _sample_shape(diff.completion.other)],
        },
    }


def _sample_shape(sample: Sample) -> Shape:
    return {
        "prompt": sample.prompt,
        "completion": sample.completion,
        "answer": sample.answer,
        "reward": sample.reward,
        "rewards": dict(sample.rewards),
    }


def submit_shape(
    name: str, sweep_id: int | None, runs: Sequence[tuple[int | None, str, Sequence[str]]]
) -> Shape:
    """`submit --json`; the ids are null in a dry run."""
    return {
        "sweep": name,
        "id": sweep_id,
        "runs": [{"id": run_id, "name": run, "set": list(items)} for run_id, run, items in runs],
    }


def best_shape(
    objective: Objective,
    rows: Sequence[RankedSetting],
    duel: Comparison | None = None,
    statistic: str = "mean",
) -> Shape:
    """`best --json`; `mean` of a row is its `statistic`."""
    return {
        "objective": objective.metric,
        "goal": objective.goal,
        "statistic": statistic,
        "rows": [_row_shape(row) for row in rows],
        "first_against_second": None if duel is None else comparison_shape(duel),
    }


def comparison_shape(found: Comparison) -> Shape:
    """How a setting compares with another: the probability that a run of it beats one of that."""
    return {
        "verdict": found.verdict,
        "probability": found.probability,
        "meetings": found.meetings,
        "difference": found.difference,
        "p": found.p,
        "paired": found.paired,
    }


def levels_shape(objective: Objective, key: str, levels: Sequence[Level]) -> Shape:
    """`compare --json`; `best_against` compares the best value with this one."""
    return {
        "objective": objective.metric,
        "goal": objective.goal,
        "by": key,
        "rows": [
            {
                "value": level.value,
                "n": level.n,
                "mean": level.mean,
                "ci95": interval_shape(level.ci95),
                "range": list(level.range),
                "best_against": None if level.against is None else comparison_shape(level.against),
            }
            for level in levels
        ],
    }


def history_shape(objective: Objective, points: Sequence[tuple[float, float]]) -> Shape:
    """`best --history --json`."""
    return {
        "objective": objective.metric,
        "goal": objective.goal,
        "points": [{"gpu_hours": hours, "best": value} for hours, value in points],
    }


def interval_shape(interval: tuple[float, float] | None) -> list[float] | None:
    """Low and high; null where the runs are too few, or too equal, for an interval."""
    return None if interval is None else list(interval)


def _row_shape(row: RankedSetting) -> Shape:
    return {
        "rank": row.rank,
        "params": row.params,
        "n": row.n,
        "mean": row.mean,
        "ci95": interval_shape(row.ci95),
        "range": list(row.range),
        "runs": [
            {"id": s.run.id, "name": s.run.name, "seed": s.run.seed, "value": s.value}
            for s in row.scores
        ],
    }
