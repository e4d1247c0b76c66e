"""`grpo-sweep status` and `grpo-sweep show`: what runs, what waits, and the story of one run."""

import shlex
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import WIDE, Ref, console, json_option, open_queue, print_json, say

if TYPE_CHECKING:
    from orchestrator.run import Attempt, Run, Sweep
    from orchestrator.store import Store
    from orchestrator.views.facts import Overview

# A status is one screen: of a long sweep it shows what matters now.
_RUNS_SHOWN = 12
_PLOT_WIDTH = 80

# Of the metrics of a run those that tell how it went; --json has all.
_TELLING = (
    *("em", "reward_mean", "loss", "kl", "entropy", "completion_length", "truncated_frac"),
    *("tokens_per_s", "peak_bytes"),
)


@click.command()
@click.argument("sweep", required=False, type=Ref())
@click.option("--all", "show_all", is_flag=True, help="Show every sweep, also long finished ones.")
@json_option
def status(sweep: str | None = None, show_all: bool = False, as_json: bool = False) -> None:
    """What runs now, what waits and why, what is done.

    Shows unfinished and the latest sweeps; with SWEEP all runs of that one.
    """
    from orchestrator.presence import worker_alive
    from orchestrator.views.facts import gather
    from orchestrator.views.shapes import status_shape

    with open_queue(readonly=True) as store:
        sweeps = [store.sweep(sweep)] if sweep else store.sweeps(all=show_all)
        # Programs get every run; a person one screen, unless the sweep is named.
        whole = as_json or sweep is not None
        view = gather(store, sweeps, None if whole else _RUNS_SHOWN)
    pid = worker_alive()
    if as_json:
        print_json(status_shape(pid, view))
    elif not sweeps:
        print("the queue is empty; try: grpo-sweep demo   or: grpo-sweep submit SPEC")
    else:
        _print_status(pid, view)


def _print_status(pid: int | None, view: "Overview") -> None:
    from orchestrator.views.tables import runs_table, sweep_line

    out = console()
    unfinished = any(s.state in ("queued", "running", "paused") for s in view.sweeps)
    if pid is not None:
        out.print(f"worker runs (pid {pid})")
    elif unfinished:
        out.print("no worker runs; start one with: grpo-sweep work", style="yellow")
    for number, sweep in enumerate(view.sweeps):
        if number or unfinished or pid is not None:
            out.print()
        out.print(sweep_line(sweep, view.eta_s[sweep.id]), soft_wrap=True)
        shown = view.runs[sweep.id]
        out.print(runs_table(shown, view, wide=out.is_terminal and out.width >= WIDE))
        if more := sum(sweep.counts.values()) - len(shown):
            print(f"… {more:,} more: grpo-sweep status {sweep.name}")
        for run in shown:
            if run.reason and run.state not in ("completed", "cancelled"):
                out.print(f"run {run.id}: {run.reason}", style="yellow", soft_wrap=True)


@click.command()
@click.argument("run", type=Ref())
@click.option("--plot", is_flag=True, help="Draw its reward and the sweep's objective as well.")
@json_option
def show(run: str, plot: bool, as_json: bool) -> None:
    """Everything about a RUN: the exact command, its overrides, each attempt and why it ended."""
    from orchestrator.launcher import command
    from orchestrator.paths import home
    from orchestrator.views.facts import progress_of
    from orchestrator.views.shapes import show_shape

    with open_queue(readonly=True) as store:
        found = one_run(store, run)
        attempts = store.attempts(found.id)
        sweep = store.sweep_of(found)
    words = command(found, home())
    if as_json:
        print_json(show_shape(found, progress_of(found), words, attempts))
    else:
        _print_run(found, sweep, words)
        _print_attempts(attempts)
        if plot:
            _print_plots(found, sweep)


def one_run(store: "Store", ref: str) -> "Run":
    """The single run that `ref` means; UsageError where it means several."""
    from orchestrator.errors import UsageError

    runs = store.find_runs(ref)
    if len(runs) != 1:
        ids = ", ".join(str(run.id) for run in runs[:8]) + (", …" if len(runs) > 8 else "")
        raise UsageError(f"{ref}: {len(runs)} runs; name one of them: {ids}")
    return runs[0]


def _print_run(run: "Run", sweep: "Sweep", words: list[str]) -> None:
    from orchestrator.views.facts import progress_of
    from orchestrator.views.tables import updates_text
    from orchestrator.views.text import clock, duration, metric, settings

    now = progress_of(run)
    facts = {
        "state": run.state + (f": {run.reason}" if run.reason else ""),
        "overrides": settings(run.overrides) or "none",
        "seed": str(run.seed),
        "tags": ", ".join(run.tags),
        "base": sweep.config_source,
        "output": str(run.folder),
        "progress": f"update {updates_text(now)}, {duration(run.wall_s or None)} trained",
        "started": clock(run.started),
        "ended": clock(run.ended),
        "metrics": ", ".join(
            f"{key} {metric(key, now.metrics[key])}" for key in _TELLING if key in now.metrics
        ),
    }
    print(f"run {run.id}: {run.name}   (sweep {run.sweep})")
    for name, value in facts.items():
        if value:
            print(f"  {name:<10} {value}")
    print(f"  by hand    cd {shlex.quote(run.cwd)} && \\\n    {shlex.join(words)}")


def _print_attempts(attempts: "list[Attempt]") -> None:
    from orchestrator.views.text import clock

    for attempt in attempts:
        end = f"{clock(attempt.ended)}: {attempt.outcome}" if attempt.ended else "not ended"
        print(f"  attempt {attempt.n}  {clock(attempt.started)} to {end}")
        for line in attempt.changed:
            print(f"    changed   {line}")
        for name in ("reason", "evidence", "log"):
            value = getattr(attempt, name)
            if value:
                print(f"    {name:<9} {value}")
    if not attempts:
        say("not started yet")


def _print_plots(run: "Run", sweep: "Sweep") -> None:
    from orchestrator.progress import read_curves
    from orchestrator.views.plot import curve_plot, shows_braille

    out = console()
    width = min(out.width, _PLOT_WIDTH) if out.is_terminal else _PLOT_WIDTH
    curves = read_curves(run.folder, dict.fromkeys(("reward_mean", sweep.objective.metric)))
    for name, curve in curves.items():
        lines = curve_plot(name, curve, width, braille=shows_braille(sys.stdout.encoding))
        print("\n" + "\n".join(lines) if lines else f"\n{name}: not logged yet")
