"""`grpo-sweep show`: everything about one run, and where two runs differ."""

import contextlib
import sys
from collections.abc import Sequence

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json, say
from orchestrator.cli.references import Ref, one_run
from orchestrator.errors import UsageError
from orchestrator.queue.store import Store
from orchestrator.results.illnesses import Illness
from orchestrator.results.slowdown import Slowdown
from orchestrator.results.training_log import read_curves
from orchestrator.run import Run, Sweep
from orchestrator.system.files import freeze
from orchestrator.system.paths import home
from orchestrator.views.json_shapes import diff_shape, show_shape
from orchestrator.views.learning_curves import read_learning_curves
from orchestrator.views.plot import curve_plot, shows_braille
from orchestrator.views.run_details import RunDetails, details_lines, read_details
from orchestrator.views.run_diff import diff_runs
from orchestrator.views.run_diff_lines import diff_lines

_PLOT_WIDTH = 80


@click.command()
@click.argument("run", type=Ref(runs=True, sweeps=False))
@click.argument("other", type=Ref(runs=True, sweeps=False), required=False)
@click.option("--plot", is_flag=True, help="Draw its reward and the sweep's objective as well.")
@json_option
def show(run: str, other: str | None, plot: bool, as_json: bool) -> None:
    """Everything about a RUN: the exact command, its overrides, each attempt and why it ended.

    With an OTHER run: where the two differ, in settings, packages, what they logged, and the first
    completion.

    \b
    Examples:
      grpo-sweep show 12
      grpo-sweep show lr1e-5-g8-s0 --plot       by its name
      grpo-sweep show 12 15                     the two side by side
    """
    if other is not None:
        _show_difference(run, other, plot, as_json)
        return
    with Store.open(readonly=True) as store:
        details = read_details(store, one_run(store, run), home())
    warnings = _warnings(details.run)
    if as_json:
        print_json(show_shape(details, warnings))
        return
    _freeze(details)
    print("\n".join(details_lines(details, warnings)))
    if not details.attempts:
        say("not started yet")
    if plot:
        _print_plots(details.run, details.sweep)


def _warnings(run: Run) -> Sequence[Slowdown | Illness]:
    return read_learning_curves(run.folder).warnings_of(run)


def _show_difference(one: str, other: str, plot: bool, as_json: bool) -> None:
    with Store.open(readonly=True) as store:
        found = [read_details(store, one_run(store, ref), home()) for ref in (one, other)]
    first, second = found
    if first.run.id == second.run.id:
        raise UsageError(f"{one} and {other} are the same run: name two")
    diff = diff_runs((first.run, first.sweep), (second.run, second.sweep))
    if as_json:
        print_json(diff_shape([show_shape(each, _warnings(each.run)) for each in found], diff))
        return
    print("\n".join(diff_lines([details.run for details in found], first.sweep, diff)))
    if plot:
        for details in found:
            print(f"\nrun {details.run.id}")
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
