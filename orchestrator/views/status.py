"""The whole status as one picture: what runs, what comes next, and the sweeps with their runs.

`status` prints it once, `watch` redraws it. What is in it was gathered by `overview.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.results.illnesses import Illness
from orchestrator.run import Run, Sweep, stamp
from orchestrator.text import run_ids
from orchestrator.views.learning_curves import CurveCache
from orchestrator.views.now import (
    flow,
    next_line,
    node_lines,
    paused_line,
    run_lines,
    whole_line,
    worker_line,
)
from orchestrator.views.overview import UNFINISHED, Overview
from orchestrator.views.tables import best_line, left_out_line, runs_table, sweep_text, with_room
from orchestrator.worker.serving import ServingWorker

# Besides the first open sweep, each gets so many rows; more reasons than these are only counted.
_ROWS_OF_OTHERS = 3
_REASONS = 4
# A table of more runs takes rich a millisecond each.
TABLE_MOST = 500


def rows_for(sweeps: Sequence[Sweep], most: int) -> dict[int, int]:
    """How many runs of each sweep to show, so that all fit `most` lines.

    The sweep that runs (else the first that waits, else the latest) gets most of them, a sweep
    that is over none.
    """
    live = [sweep for sweep in sweeps if sweep.state in UNFINISHED]
    if not live:
        return {sweeps[-1].id: most} if sweeps else {}
    main = next((s for s in live if s.state == "running"), live[0])
    rows = {sweep.id: min(_ROWS_OF_OTHERS, most) for sweep in live}
    rows[main.id] = max(_ROWS_OF_OTHERS, most - _ROWS_OF_OTHERS * (len(live) - 1))
    return rows


def status_picture(
    view: Overview,
    worker: ServingWorker | None,
    width: int,
    now: datetime,
    *,
    notes: Mapping[int, str] | None = None,
    cache: CurveCache | None = None,
    sparklines: bool = False,
    alone: bool = False,
) -> Group:
    """The lines and tables of a status, for a terminal of `width` columns.

    `notes` are what trainers say before their first update, by run; `cache` remembers logs that
    were read before; with `sparklines` each run of a table gets its own; `alone` is a sweep that
    was asked for by its name.
    """
    found = cache or CurveCache()
    blocks = [_now(view, worker, width, now, notes or {}, found)]
    for sweep in view.sweeps:
        blocks.append(_sweep(sweep, view, width, found, sparklines, alone))
    # A group: printed one by one, lines that are to be cut would be folded.
    return Group(*_spaced(block for block in blocks if block))


def _spaced(blocks: Iterable[list[RenderableType]]) -> list[RenderableType]:
    lines: list[RenderableType] = []
    for block in blocks:
        lines += [Text(""), *block] if lines else block
    return lines


def _now(
    view: Overview,
    worker: ServingWorker | None,
    width: int,
    now: datetime,
    notes: Mapping[int, str],
    cache: CurveCache,
) -> list[RenderableType]:
    """Who works, on what, what comes then, and when it will be over."""
    lines: list[RenderableType] = []
    if worker is not None:
        lines.append(worker_line(worker))
        lines += node_lines(worker.nodes, view.speeds, now)
    elif any(sweep.state in UNFINISHED for sweep in view.sweeps):
        lines.append(Text("no worker runs; start one with: grpo-sweep work", style="yellow"))
    if view.halted:
        words = f"the queue stands still: {view.halted}; go on with: grpo-sweep resume --queue"
        lines.append(Text(words, style="yellow"))
    paused = paused_line(view.paused)
    lines += [paused] if paused is not None else []
    for run in view.running:
        progress = view.progress[run.id]
        note = notes.get(run.id, "")
        curves, slot = cache.of(run), view.slot_of(run)
        lines += run_lines(run, progress, curves, width, progress.left_s, note, slot)
        if (pid := view.suspended.get(run.id)) is not None:
            words = f"its trainer is stopped (pid {pid}), as by Ctrl-Z; it goes on with: "
            lines.append(Text(f"  {words}kill -CONT {pid}", style="yellow"))
    if worker is not None or view.running:
        follows = next_line(view.next_runs, stamp(now))
        lines += [follows] if follows is not None else []
    done = whole_line(view, worker, now)
    return [*lines, *([done] if done is not None else [])]


def _sweep(
    sweep: Sweep, view: Overview, width: int, found: CurveCache, sparklines: bool, alone: bool
) -> list[RenderableType]:
    """A sweep's line, the table of its runs, why those that stand still do, and what ails runs."""
    lines: list[RenderableType] = []
    lines += flow(sweep_text(sweep, view.left[sweep.id]), width, first="")
    if waits_for := view.waits_for.get(sweep.id):
        lines.append(Text(waits_for, style="yellow"))
    shown = view.runs[sweep.id]
    ill = {} if len(shown) > TABLE_MOST else found.illnesses(shown)
    if len(shown) > TABLE_MOST:
        lines.append(Text(f"all {len(shown):,} runs stand below", style="dim"))
    elif shown:
        draw = (lambda run: found.of(run).spark(16)) if sparklines else None
        swept = view.swept.get(sweep.id, ())
        lines.append(runs_table(shown, view, width, draw, swept, ill))
        room = with_room(shown, view, width, swept)
        if left_out := [key for key in swept if key not in room]:
            lines.append(left_out_line(left_out))
    more = sum(sweep.counts.values()) - len(shown)
    if shown and more:
        every = " --all" if alone else ""
        words = f"… {more:,} more: grpo-sweep status {sweep.name}{every}"
        lines.append(Text(words, style="dim"))
    best = view.best.get(sweep.id)
    if best is not None:
        lines.append(best_line(best, sweep.objective))
    return [*lines, *_reasons(shown), *_ill_lines(ill, view.running)]


def _ill_lines(
    ill: Mapping[int, Sequence[Illness]], running: Sequence[Run]
) -> list[RenderableType]:
    """What ails the runs that are marked; of those that train it stands above, at length."""
    told = {run.id for run in running}
    of: dict[str, list[int]] = {}
    for run_id, illnesses in ill.items():
        if run_id not in told:
            of.setdefault(", ".join(str(one.code) for one in illnesses), []).append(run_id)
    return [
        Text(f"! {run_ids(ids)}: {codes}; what to try: grpo-sweep show {ids[0]}", style="yellow")
        for codes, ids in of.items()
    ]


def _reasons(runs: Sequence[Run]) -> list[RenderableType]:
    """Why runs stand still, failed or learnt nothing; those with the same reason on one line."""
    of: dict[str, list[int]] = {}
    for run in runs:
        is_copy = run.state == "completed" and run.same_as is not None
        if run.reason and run.state != "cancelled" and not is_copy:
            of.setdefault(run.reason, []).append(run.id)
    reasons = list(of.items())
    lines = [Text(f"{run_ids(ids)}: {why}", style="yellow") for why, ids in reasons[:_REASONS]]
    if more := sum(len(ids) for _, ids in reasons[_REASONS:]):
        lines.append(Text(f"… {more} more have a reason: grpo-sweep show RUN"))
    return list(lines)
