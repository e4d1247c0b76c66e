"""The JSON that the page reads (docs/ui.md): texts as people read them, numbers where it sorts.

Pure. Ids are integers, times ISO 8601 in UTC, what is unknown is null.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from orchestrator.queue.eta import Span
from orchestrator.report.shapes import clean, pairs, row_shape, sample_shape
from orchestrator.results.illnesses import Illness
from orchestrator.results.leaderboard import (
    RankedSetting,
    first_against_second,
)
from orchestrator.results.samples import Sample
from orchestrator.results.stats import Comparison
from orchestrator.run import (
    END_STATES,
    TRANSITIONS,
    Objective,
    Progress,
    Run,
    RunState,
    Sweep,
    stamp,
)
from orchestrator.text import (
    between,
    clock,
    counts,
    duration,
    metric,
    number,
    percent,
    size,
    span,
    time_of_day,
)
from orchestrator.views.json_shapes import interval_shape
from orchestrator.views.overview import UNFINISHED, Overview, updates_text
from orchestrator.worker.serving import NodeStatus, ServingWorker

Shape = dict[str, Any]

# A failure is news for so long; in an unfinished sweep it always is.
_NEWS = timedelta(hours=24)


# --- the queue


@dataclass(frozen=True)
class Machine:
    """Who serves the queue, and what the machine is short of."""

    worker: ServingWorker | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Now:
    """What the running run says besides its progress: its last line, and what it wrote last.

    `swept` are the parameters that differ between the runs of its sweep, `warnings` how it is ill
    or slower than usual.
    """

    swept: tuple[str, ...] = ()
    note: str = ""
    lines: int = 0
    epoch: int = 0
    samples: tuple[Sample, ...] = ()
    warnings: tuple[str, ...] = ()


def queue_shape(
    view: Overview, machine: Machine, now: Now, failures: Sequence[Run], at: datetime
) -> Shape:
    """What runs, what comes next, when all is done, what failed, and the sweeps."""
    return {
        "at": stamp(at),
        "worker": machine.worker and {"pid": machine.worker.pid},
        "warnings": list(machine.warnings),
        "halted": view.halted,
        "all_done": _all_done(view, machine, at),
        "running": running_shape(view, now),
        "slots": slots_shape(view),
        "nodes": nodes_shape(view, machine.worker, at),
        "next": [_next_shape(run, stamp(at)) for run in view.next_runs],
        "failures": [failure_shape(run) for run in failures],
        "sweeps": [
            _sweep_line(sweep, view.left[sweep.id], view.waits_for.get(sweep.id))
            for sweep in view.sweeps
        ],
    }


def nodes_shape(view: Overview, worker: ServingWorker | None, at: datetime) -> list[Shape]:
    """What each node of the cluster has, how fast it is, and why it trains nothing."""
    return [
        {
            "node": node.name,
            "slots": node.slots or None,
            "backend": node.backend,
            "memory": size(node.memory_bytes) if node.memory_bytes else "",
            "speed": None if (pace := view.speeds.get(node.name)) is None else f"{pace:.1f} ×",
            "lacks": _lacks(node, at),
            "paused": node.name in view.paused,
        }
        for node in (worker.nodes if worker else ())
    ]


def nodes_that_train_nothing(worker: ServingWorker | None, at: datetime) -> list[str]:
    """Which nodes are away, and which get no run."""
    nodes = worker.nodes if worker else ()
    return [f"Node {node.name} {lacks}." for node in nodes if (lacks := _lacks(node, at))]


def _lacks(node: NodeStatus, at: datetime) -> str | None:
    if node.away_since is not None:
        since = datetime.fromisoformat(node.away_since).astimezone()
        return f"is away since {time_of_day(since, at.astimezone())}"
    return None if node.unfit is None else f"gets no run: {node.unfit}"


def is_news(run: Run, sweep: Sweep, now: datetime) -> bool:
    """Whether a failure is to be seen at first sight."""
    return sweep.state in UNFINISHED or (run.ended or "") >= stamp(now - _NEWS)


def _all_done(view: Overview, machine: Machine, at: datetime) -> str | None:
    if not any(sweep.state in UNFINISHED for sweep in view.sweeps):
        return None
    if view.whole is None:
        return "unknown: nothing like what is left was measured yet"
    low, high = view.whole.low_s, view.whole.high_s
    if high <= 0:
        return None
    when = between(low, high, at) if machine.worker else "once a worker runs"
    return f"in {span(low, high)}, {when}"


def running_shape(view: Overview, now: Now) -> Shape | None:
    """The run that trains, of several the first; null where none does."""
    if not view.running:
        return None
    run = view.running[0]
    known = view.progress[run.id]
    share = known.update / known.updates_total if known.updates_total and known.update else 0.0
    return {
        **_name_shape(run),
        "sweep_id": run.sweep_id,
        "folder": str(run.folder),
        "attempt": run.attempt,
        "request": run.request,
        "can": may_do(run),
        "settings": pairs({key: run.overrides[key] for key in now.swept if key in run.overrides}),
        "progress": None if known.update is None else updates_text(known),
        "share": min(1.0, share),
        "left": None if known.left_s is None else duration(known.left_s),
        "since": None if run.started is None else clock(run.started),
        "figures": _figures(known),
        "warnings": list(now.warnings),
        "note": clean(now.note),
        "lines": now.lines,
        "epoch": now.epoch,
        "samples": [sample_shape(sample) for sample in _worst_and_best(now.samples)],
    }


def slots_shape(view: Overview) -> list[Shape]:
    """What each slot trains; nothing to say where there is one, and it is not paused."""
    if len(view.slots) < 2 and not any(slot.paused for slot in view.slots):
        return []
    runs = {run.id: run for run in view.running}
    return [
        {
            "slot": slot.name,
            "paused": slot.paused,
            "run": None if slot.run is None else _slot_run(runs[slot.run], view),
        }
        for slot in view.slots
    ]


def _slot_run(run: Run, view: Overview) -> Shape:
    known = view.progress[run.id]
    return {
        **_name_shape(run),
        "folder": str(run.folder),
        "attempt": run.attempt,
        "progress": None if known.update is None else updates_text(known),
        "left": None if known.left_s is None else duration(known.left_s),
    }


def _figures(now: Progress) -> list[list[str]]:
    """[title, value] of what tells how it goes."""
    shown: Mapping[str, tuple[str, Any]] = {
        "reward_mean": ("reward", number),
        "em": ("held-out exact match", percent),
        "eval_reward": ("held-out reward", number),
        "tokens_per_s": ("tokens/s", lambda value: f"{value:,.0f}"),
        "peak_bytes": ("peak memory", size),
    }
    return [
        [title, show(value)]
        for key, (title, show) in shown.items()
        if isinstance(value := now.metrics.get(key), int | float)
    ]


def _worst_and_best(samples: Sequence[Sample]) -> list[Sample]:
    """Of a group the best completion and the worst one, where they differ."""
    if not samples:
        return []
    ordered = sorted(samples, key=lambda sample: sample.reward or 0.0)
    best, worst = ordered[-1], ordered[0]
    return [best] if best.completion == worst.completion else [best, worst]


def _next_shape(run: Run, now_iso: str) -> Shape:
    return {**_name_shape(run), "waits": run.not_before is not None and run.not_before > now_iso}


def failure_shape(run: Run) -> Shape:
    """A run that failed, and why."""
    return {**_name_shape(run), "reason": clean(run.reason or ""), "ended": clock(run.ended)}


def _name_shape(run: Run) -> Shape:
    return {"id": run.id, "name": run.name, "sweep": run.sweep}


def _sweep_line(sweep: Sweep, left: Span | None, waits_for: str | None) -> Shape:
    return {
        "id": sweep.id,
        "name": sweep.name,
        "state": sweep.state,
        "counts": counts(sweep.counts),
        "waits_for": waits_for,
        "left": None if left is None or left.high_s <= 0 else span(left.low_s, left.high_s),
    }


# --- a sweep


def sweep_shape(
    sweep: Sweep,
    runs: Sequence[Run],
    keys: Sequence[str],
    rows: Sequence[RankedSetting],
    values: Mapping[int, float | None],
    progress: Mapping[int, Progress],
    before: float | None,
    ill: Mapping[int, Sequence[Illness]],
) -> Shape:
    """A sweep: its best setting and how sure that is, and a row for each run; `ill` by run."""
    name = sweep.objective.metric
    return {
        "id": sweep.id,
        "name": sweep.name,
        "state": sweep.state,
        "reason": clean(sweep.reason or "") if sweep.paused else None,
        "counts": counts(sweep.counts),
        "created": clock(sweep.created),
        "metric": name,
        "goal": sweep.objective.goal,
        "keys": list(keys),
        "tagged": any(run.tags for run in runs),
        "best": best_shape(rows, keys, sweep.objective, before),
        "runs": [
            {
                **row_shape(
                    *(run, keys, name, values[run.id], progress[run.id]), ill.get(run.id, ())
                ),
                **asked(run),
            }
            for run in runs
        ],
    }


def best_shape(
    rows: Sequence[RankedSetting], keys: Sequence[str], objective: Objective, before: float | None
) -> Shape | None:
    """The best setting, what it reached, and how sure it is that it is the best."""
    if not rows:
        return None
    first, name = rows[0], objective.metric
    found = first.ci95 or (first.range if first.n > 1 else None)
    return {
        "settings": pairs({key: first.params[key] for key in keys if key in first.params}),
        "value": metric(name, first.mean),
        "before": None if before is None else metric(name, before),
        "n": first.n,
        "interval": None if found is None else [metric(name, value) for value in found],
        "interval_kind": "95% interval" if first.ci95 else "range",
        "ci95": interval_shape(first.ci95),
        "sure": how_sure(rows, objective),
        "runs": [score.run.id for score in first.scores],
    }


def how_sure(rows: Sequence[RankedSetting], objective: Objective) -> str:
    """Whether the first setting is better than the second, in a sentence."""
    if len(rows) < 2:
        return "No other setting has a result yet."
    if rows[1].rank == 1:
        equal = sum(row.rank == 1 for row in rows) - 1
        return f"{equal} other {'setting is' if equal == 1 else 'settings are'} equal to it."
    found = first_against_second(rows, objective)
    assert found is not None
    return _comparison_text(found)


def _comparison_text(found: Comparison) -> str:
    if found.p is None:
        return "Too few seeds to tell it from the second: train more of them."
    if found.verdict == "not distinguishable":
        return f"These seeds do not tell it from the second (p = {found.p:.2g})."
    return f"Better than the second (p = {found.p:.2g})."


# --- what can be asked of a run


def asked(run: Run) -> Shape:
    """What is asked of a run already, and what can be."""
    return {"request": run.request, "can": may_do(run)}


def may_do(run: Run) -> list[str]:
    """What can be asked of a run as it stands, by the names of the actions."""
    if run.state is RunState.RUNNING:
        asked: Mapping[str | None, list[str]] = {None: ["pause", "cancel"], "pause": ["cancel"]}
        return asked.get(run.request, [])
    if run.state in END_STATES:
        return ["retry"] if RunState.QUEUED in TRANSITIONS[run.state] else []
    if run.state is RunState.PAUSED:
        # What halving holds back is not the user's to resume.
        return ["cancel"] if run.rung is not None else ["resume", "cancel"]
    return ["first", "pause", "cancel"]
