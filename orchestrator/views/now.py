"""What happens now, as lines of text: the run that trains, what comes next, when all is done.

Shared by `status`, `watch` and the worker's own live view. Draws what it is given; only what the
trainer says before its first update is read here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.text import Text

from orchestrator.results.training_log import held_out_metric
from orchestrator.run import ASKED, Progress, Run, Sweep
from orchestrator.system.paths import Home
from orchestrator.text import (
    bar,
    between,
    duration,
    metric,
    number,
    plural,
    size,
    span,
    time_of_day,
)
from orchestrator.views.learning_curves import LearningCurves
from orchestrator.views.overview import UNFINISHED, Overview, updates_text
from orchestrator.worker.serving import NodeStatus, ServingWorker

# Wider than this a bar and a line are harder to read, not easier.
MOST_WIDTH = 100
_INDENT = "  "
_DOT = " · "


# --- the run that trains


def last_text(home: Home, run: Run) -> str:
    """The line that the run's trainer said last, such as who holds the GPU."""
    # Not at the top: what a worker needs would make each status wait.
    from orchestrator.worker.attempt_log import read_tail

    tail = read_tail(home.attempt_log(run.id, run.attempt), limit=4096)
    return next((line for line in reversed(tail.splitlines()) if line.strip()), "")


def run_lines(
    run: Run,
    now: Progress,
    curves: LearningCurves,
    width: int,
    rest_s: float | None,
    note: str = "",
    slot: str | None = None,
) -> list[Text]:
    """A run that trains: its name, a bar with the time left, its figures; `note` before that.

    `slot` is named where there are several.
    """
    width = max(20, min(width, MOST_WIDTH))
    lines = [_head(run, slot)]
    if now.update is None:
        lines[0].append("  starting")
        return [*lines, *([_cut(Text(_INDENT + note, style="dim"))] if note else [])]
    after = f" {updates_text(now)}"
    after += "" if rest_s is None else f" · about {duration(rest_s)} left"
    if now.updates_total:
        room = max(8, width - len(_INDENT) - len(after))
        lines.append(_bar_line(now.update / now.updates_total, room, after))
    else:
        lines.append(Text(f"{_INDENT}update{after}"))
    warnings = [Text(f"{_INDENT}! {warning}", style="yellow") for warning in curves.warnings]
    return [*lines, *flow(_figures(now, curves), width), *warnings]


def _head(run: Run, slot: str | None) -> Text:
    asked = {"cancel": "  cancelling", "pause": "  pausing"}.get(run.request or "", "")
    attempt = f"  attempt {run.attempt}" if run.attempt > 1 else ""
    return _cut(
        Text.assemble(
            ("▶ ", "cyan"),
            (f"{run.id} {run.name}", "bold"),
            (f" of {run.sweep}", "dim"),
            ("" if slot is None else f"  slot {slot}", "dim"),
            attempt,
            (asked, "yellow"),
        )
    )


def _figures(now: Progress, curves: LearningCurves) -> list[Text]:
    reward = Text(f"reward {number(now.metrics.get('reward_mean'))}")
    if drawn := curves.spark():
        reward.append(f" {drawn}", style="green")
    words = [reward]
    if score := curves.score_text() or score_text(now.metrics):
        words.append(Text(score))
    if speed := _known("tokens_per_s", now, lambda value: f"{value:,.0f} tokens/s"):
        words.append(Text(speed))
    if peak := _known("peak_bytes", now, size):
        words.append(Text(f"peak {peak}"))
    return words


def score_text(metrics: Mapping[str, Any]) -> str:
    """`em 45.5%`: what held-out rows scored last; empty without any."""
    name = held_out_metric(metrics)
    return f"{name} {metric(name, metrics[name])}" if metrics.get(name) is not None else ""


def _known(name: str, now: Progress, show: Callable[[Any], str]) -> str:
    value = now.metrics.get(name)
    return show(value) if isinstance(value, int | float) else ""


def _bar_line(share: float, width: int, after: str) -> Text:
    drawn = bar(share, width)
    full = drawn.count(drawn[0]) if share > 0 else 0
    return Text.assemble(_INDENT, (drawn[:full], "cyan"), (drawn[full:], "dim"), after)


def flow(words: Iterable[Text], width: int, first: str = _INDENT) -> list[Text]:
    """Pieces of text on as few lines as hold them, with dots between; `first` stands before."""
    lines: list[Text] = []
    for word in words:
        if lines and lines[-1].cell_len + len(_DOT) + word.cell_len <= width:
            lines[-1].append(_DOT).append_text(word)
        else:
            lines.append(Text(_INDENT if lines else first).append_text(word))
    return lines


def _cut(line: Text) -> Text:
    """A line that ends in … where the terminal does."""
    line.no_wrap, line.overflow = True, "ellipsis"
    return line


# --- what comes next, and when it is done


def next_line(runs: Sequence[Run], now_iso: str) -> Text | None:
    """`next  4 lr1e-2-g2 · 5 lr1e-2-g8`; what waits out a back-off says so."""
    if not runs:
        return None
    names = [
        f"{run.id} {run.name}" + (" (waits a moment after a death)" if _waits(run, now_iso) else "")
        for run in runs
    ]
    return _cut(Text.assemble(("next ", "dim"), " · ".join(names)))


def _waits(run: Run, now_iso: str) -> bool:
    return run.not_before is not None and run.not_before > now_iso


def worker_line(worker: ServingWorker) -> Text:
    """Which worker runs, or why the one that is there trains nothing."""
    if worker.stopped:
        words = f"worker stopped ({worker.who}), as by Ctrl-Z; it goes on with fg, or with: "
        return Text(f"{words}kill -CONT {worker.pid}", style="yellow")
    if worker.waits:
        return Text(f"worker waits ({worker.who}): {worker.waits}", style="yellow")
    several = len(worker.slots) > 1 or worker.nodes
    slots = f", {plural(len(worker.slots), 'slot')}" if several else ""
    return Text(f"worker runs ({worker.who}){slots}", style="dim")


def node_lines(
    nodes: Sequence[NodeStatus], speeds: Mapping[str | None, float], now: datetime
) -> list[Text]:
    """What each node of the cluster has, how fast it is, and which one is away since when."""
    width = max((len(node.name) for node in nodes), default=0)
    return [_cut(_node_line(node, speeds.get(node.name), now, width)) for node in nodes]


def _node_line(node: NodeStatus, speed: float | None, now: datetime, width: int) -> Text:
    line = Text.assemble(("node ", "dim"), f"{node.name:<{width}}  ")
    if node.away_since is not None:
        since = time_of_day(datetime.fromisoformat(node.away_since).astimezone(), now.astimezone())
        return line.append(f"away since {since}", style="yellow")
    if node.unfit is not None:
        return line.append(f"gets no run: {node.unfit}", style="yellow")
    has = f"{plural(node.slots, 'slot')}, {node.backend}, {size(node.memory_bytes)} each"
    pace = "" if speed is None else f", {speed:.1f} times the mean speed"
    return line.append(f"{has}{pace}", style="dim")


def paused_line(paused: Mapping[str, str]) -> Text | None:
    """The slots and nodes that take no run, with what there is to say beyond that a user asked."""
    if not paused:
        return None
    names = [name if why == ASKED else f"{name} ({why})" for name, why in paused.items()]
    words = f"{'slot' if len(names) == 1 else 'slots'} {', '.join(names)} paused; go on with: "
    words += "; ".join(f"grpo-sweep resume --slot {name}" for name in paused)
    return Text(words, style="yellow")


def whole_line(view: Overview, worker: ServingWorker | None, now: datetime) -> Text | None:
    """When the whole queue will be done; where no worker trains, only how long that takes."""
    open_sweeps = [sweep for sweep in view.sweeps if is_open(sweep)]
    if not open_sweeps or view.halted:
        return None
    if view.whole is None:
        words = "unknown: nothing like what is left was measured yet"
        return Text.assemble(("all done ", "dim"), words)
    low, high = view.whole.low_s, view.whole.high_s
    words = f"in {span(low, high)}"
    if worker is None:
        words += ", once a worker runs"
    elif worker.stopped or worker.waits:
        words += ", once the worker goes on"
    else:
        words += f", {between(low, high, now)}"
    return Text.assemble(("all done ", "dim"), (words, "cyan"))


def is_open(sweep: Sweep) -> bool:
    """Whether runs of it can still start."""
    return sweep.state in UNFINISHED and not sweep.paused and sweep.state != "paused"
