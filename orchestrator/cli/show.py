"""`grpo-sweep show`: everything about one run."""

import contextlib
import sys

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json, say
from orchestrator.cli.references import Ref, one_run
from orchestrator.queue.store import Store
from orchestrator.results.training_log import read_curves
from orchestrator.run import Run, RunState, Sweep
from orchestrator.system.files import freeze
from orchestrator.system.paths import home
from orchestrator.views.json_shapes import show_shape
from orchestrator.views.now import read_learning_curves
from orchestrator.views.plot import curve_plot, shows_braille
from orchestrator.views.run_details import RunDetails, details_lines, read_details

_PLOT_WIDTH = 80


@click.command()
@click.argument("run", type=Ref(runs=True, sweeps=False))
@click.option("--plot", is_flag=True, help="Draw its reward and the sweep's objective as well.")
@json_option
def show(run: str, plot: bool, as_json: bool) -> None:
    """Everything about a RUN: the exact command, its overrides, each attempt and why it ended.

    \b
    Examples:
      grpo-sweep show 12
      grpo-sweep show lr1e-5-g8-s0 --plot       by its name
    """
    with Store.open(readonly=True) as store:
        details = read_details(store, one_run(store, run), home())
    curves = read_learning_curves(details.run.folder)
    # Of a run that has ended, how fast it was at its end is no news.
    warnings = curves.warnings if details.run.state is RunState.RUNNING else curves.illnesses
    if as_json:
        print_json(show_shape(details, warnings))
        return
    _freeze(details)
    print("\n".join(details_lines(details, warnings)))
    if not details.attempts:
        say("not started yet")
    if plot:
        _print_plots(details.run, details.sweep)


def _freeze(details: RunDetails) -> None:
    """Let the command work by hand: its config is written before the first launch only."""
    # Somebody who may look and not write still sees it all.
    with contextlib.suppress(OSError):
        freeze(home().make().frozen_config(details.sweep.id), details.sweep.config_text)


def _print_plots(run: Run, sweep: Sweep) -> None:
    out = console()
    width = min(out.width, _PLOT_WIDTH) if out.is_terminal else _PLOT_WIDTH
    curves = read_curves(run.folder, dict.fromkeys(("reward_mean", sweep.objective.metric)))
    for name, curve in curves.items():
        lines = curve_plot(name, curve, width, braille=shows_braille(sys.stdout.encoding))
        print("\n" + "\n".join(lines) if lines else f"\n{name}: not logged yet")
