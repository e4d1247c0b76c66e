"""Everything about one run in words: what it is, what became of it, why, and how to repeat it."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.queue.history import HistoryEvent
from orchestrator.queue.store import Store
from orchestrator.results.illnesses import Illness
from orchestrator.results.slowdown import Slowdown
from orchestrator.run import Attempt, Progress, Run, RunState, Sweep
from orchestrator.spec.base_config import base_values
from orchestrator.system.locks import is_held
from orchestrator.system.paths import Home
from orchestrator.system.processes import boot_id
from orchestrator.text import clock, duration, metric, setting_value
from orchestrator.views.overview import progress_of, updates_text
from orchestrator.worker.launcher import command
from orchestrator.worker.serving import is_served

# Of the metrics of a run those that tell how it went; --json has all.
_TELLING = (
    *("em", "eval_reward", "reward_mean", "loss", "kl", "entropy"),
    *("completion_length", "truncated_frac", "tokens_per_s", "peak_bytes"),
)
# What the list of attempts shows already, and better.
_SHOWN_BY_ATTEMPTS = ("started", "completed", "failed", "pruned")
_HISTORY_MOST = 20


@dataclass(frozen=True)
class RunDetails:
    """All that is known about a run; `base` has what its config says for each override.

    `lives` is whether its trainer holds the run's lock, `worker` whether one serves the queue.
    """

    run: Run
    sweep: Sweep
    progress: Progress
    attempts: Sequence[Attempt]
    history: Sequence[HistoryEvent]
    waits_for: Sequence[str]
    command: Sequence[str]
    base: Mapping[str, Any]
    lives: bool
    worker: bool


def read_details(
    store: Store, run: Run, home: Home, progress: Progress | None = None
) -> RunDetails:
    """What the queue and the run's lock know; `progress` is what is known of it already."""
    sweep = store.queries.sweep_of(run)
    return RunDetails(
        run=run,
        sweep=sweep,
        progress=progress or progress_of(run),
        attempts=store.queries.attempts(run.id),
        history=store.history.of_run(run.id),
        waits_for=store.status.run_waits_for(run, boot_id()),
        command=command(run, home),
        base=base_values(sweep, run.overrides),
        lives=is_held(home.run_lock(run.id)),
        worker=is_served(home),
    )


def details_lines(details: RunDetails, warnings: Sequence[Slowdown | Illness] = ()) -> list[str]:
    """All of it, a line a fact, and what a user should know of the run by its log."""
    run = details.run
    lines = [f"run {run.id}: {run.name}   (sweep {run.sweep})"]
    for name, value in _facts(details).items():
        lines += [f"  {name:<10} {value}"] if value else []
    lines += [f"  ! {warning}" for warning in warnings]
    lines += _overrides(details)
    lines.append(f"  by hand    cd {shlex.quote(run.cwd)} && \\")
    lines.append(f"    {shlex.join(details.command)}")
    for attempt in details.attempts:
        lines += _attempt(attempt, details)
    lines += _history(details)
    return lines


def _facts(details: RunDetails) -> dict[str, str]:
    run, now = details.run, details.progress
    trained = f", {duration(run.wall_s)} trained" if run.wall_s else ""
    return {
        "state": state_text(details),
        "waits for": "; ".join(details.waits_for),
        "seed": "" if run.seed is None else str(run.seed),
        "tags": ", ".join(run.tags),
        "base": details.sweep.config_source,
        "output": str(run.folder),
        "progress": "" if now.update is None else f"update {updates_text(now)}{trained}",
        "started": "" if run.started is None else clock(run.started),
        "ended": "" if run.ended is None else clock(run.ended),
        "metrics": ", ".join(
            f"{key} {metric(key, now.metrics[key])}" for key in _TELLING if key in now.metrics
        ),
    }


def state_text(details: RunDetails) -> str:
    """The state and why it is so; of a running run who looks after it."""
    run = details.run
    words = _because(str(run.state), run.reason)
    if run.state is not RunState.RUNNING:
        return words
    if run.request:
        words += f", asked to {run.request}: it checkpoints first"
    if details.worker:
        return words
    if details.lives:
        return f"{words}; it trains on without a worker, and the next one takes it over"
    return f"{words} when its worker ended; the next one finds out what became of it"


def _overrides(details: RunDetails) -> list[str]:
    """What it sets, each beside what the base says."""
    overrides = details.run.overrides
    if not overrides:
        return ["  overrides  none: it is the base as it stands"]
    width = max(map(len, overrides))
    lines = []
    for number, (key, value) in enumerate(overrides.items()):
        head = "overrides" if number == 0 else ""
        lines.append(f"  {head:<10} {key:<{width}} {setting_value(value)}{_beside(details, key)}")
    return lines


def _beside(details: RunDetails, key: str) -> str:
    if key not in details.base:
        return ""
    base = details.base[key]
    same = base == details.run.overrides[key]
    return "   (as in the base)" if same else f"   (base: {setting_value(base)})"


def _attempt(attempt: Attempt, details: RunDetails) -> list[str]:
    end = f"to {clock(attempt.ended)}: {attempt.outcome}" if attempt.ended else "and not ended"
    pid = f" (pid {attempt.pid})" if details.lives and not attempt.ended else ""
    where = f" on {attempt.slot}" if attempt.node else ""
    after = f", from checkpoint {attempt.checkpoint}" if attempt.checkpoint > 0 else ""
    lines = [f"  attempt {attempt.n}  {clock(attempt.started)}{where} {end}{pid}{after}"]
    lines += [f"    changed   {line}" for line in attempt.changed]
    for name in ("reason", "evidence", "log"):
        if value := getattr(attempt, name):
            lines.append(f"    {name:<9} {value}")
    return lines


def _history(details: RunDetails) -> list[str]:
    """What else happened to it: what users asked, and what came of it."""
    events = [event for event in details.history if event.kind not in _SHOWN_BY_ATTEMPTS]
    shown = events[-_HISTORY_MOST:]
    lines = (
        [f"  history    … {len(events) - len(shown)} more: --json"]
        if len(shown) < len(events)
        else []
    )
    for event in shown:
        head = "" if lines else "history"
        text = "" if event.text == "asked for" else event.text
        lines.append(f"  {head:<10} {clock(event.at)} {_because(event.kind, text)}")
    return lines


def _because(what: str, reason: str | None) -> str:
    """`failed: out of memory`; a reason that says the same again is left out."""
    return f"{what}: {reason}" if reason and reason != what else what
