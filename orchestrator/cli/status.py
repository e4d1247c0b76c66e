"""`grpo-sweep status` and `grpo-sweep show`: what runs, what waits, and the story of one run."""

import contextlib
import sys
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import (
    WIDE,
    Ref,
    base_values,
    busy,
    complete_swept,
    console,
    json_option,
    print_json,
    say,
)

if TYPE_CHECKING:
    from orchestrator.queue.store import Store
    from orchestrator.run import Run, Sweep
    from orchestrator.views.overview import Overview
    from orchestrator.views.story import Story

# A status is one screen: of a long sweep it shows what matters now.
_RUNS_SHOWN = 12
# A sweep that is named may fill a page.
_RUNS_OF_ONE = 40
_PLOT_WIDTH = 80


@click.command()
@click.argument("sweep", required=False, type=Ref())
@click.option("--all", "show_all", is_flag=True, help="Every sweep; with SWEEP every run of it.")
@click.option(
    "--by",
    "keys",
    metavar="PARAM",
    multiple=True,
    shell_complete=complete_swept,
    help="The objective by the values of a parameter; twice: rows and columns.",
)
@json_option
def status(
    sweep: str | None = None,
    show_all: bool = False,
    keys: tuple[str, ...] = (),
    as_json: bool = False,
) -> None:
    """What runs now, what comes next, what waits and why, and when it will be done.

    Shows unfinished and the latest sweeps; with SWEEP more of that one.

    \b
    Examples:
      grpo-sweep                                     the same as grpo-sweep status
      grpo-sweep status lr --all                     every run of a sweep
      grpo-sweep status lr --by learning_rate        which learning rate does best
      grpo-sweep status lr --by learning_rate --by num_generations
    """
    if keys:
        from orchestrator.cli.pivot import show_pivot

        show_pivot(sweep or "@", keys, as_json)
        return
    from orchestrator.queue.store import Store
    from orchestrator.views.overview import gather
    from orchestrator.views.status import rows_for
    from orchestrator.worker.serving import worker_alive

    with Store.open(readonly=True) as store, busy("reading the queue"):
        sweeps = [store.queries.sweep(sweep)] if sweep else store.queries.sweeps(all=show_all)
        # Programs get every run; a person one screen, or a page of the sweep that is named.
        if as_json or (sweep and show_all):
            view = gather(store, sweeps, None)
        else:
            view = gather(
                store, sweeps, 0, rows_for(sweeps, _RUNS_OF_ONE if sweep else _RUNS_SHOWN)
            )
    pid = worker_alive()
    if as_json:
        from orchestrator.views.json_shapes import status_shape

        print_json(status_shape(pid, view))
    elif not sweeps:
        print("the queue is empty; try: grpo-sweep demo   or: grpo-sweep submit SPEC")
    else:
        _print_status(pid, view, alone=sweep is not None)


def _print_status(pid: int | None, view: "Overview", alone: bool) -> None:
    from datetime import UTC, datetime

    from orchestrator.system.paths import home
    from orchestrator.views.now import last_words
    from orchestrator.views.status import TABLE_MOST, status_picture
    from orchestrator.views.tables import runs_lines

    out = console()
    note = "" if view.running is None else last_words(home(), view.running)
    width = out.width if out.is_terminal else WIDE - 1
    out.print(status_picture(view, pid, width, datetime.now(UTC), note=note, alone=alone))
    for shown in view.runs.values():
        if len(shown) > TABLE_MOST:
            print("\n" + "\n".join(runs_lines(shown, view, width)))


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
    from orchestrator.queue.store import Store
    from orchestrator.views.json_shapes import show_shape
    from orchestrator.views.story import story_lines

    with Store.open(readonly=True) as store:
        story = _story(store, one_run(store, run))
    if as_json:
        print_json(show_shape(story))
        return
    _freeze(story)
    print("\n".join(story_lines(story)))
    if not story.attempts:
        say("not started yet")
    if plot:
        _print_plots(story.run, story.sweep)


def _story(store: "Store", run: "Run") -> "Story":
    from orchestrator.system.locks import is_held
    from orchestrator.system.paths import home
    from orchestrator.system.processes import boot_id
    from orchestrator.views.overview import progress_of
    from orchestrator.views.story import Story
    from orchestrator.worker.launcher import command
    from orchestrator.worker.serving import worker_alive

    sweep = store.queries.sweep_of(run)
    return Story(
        run=run,
        sweep=sweep,
        progress=progress_of(run),
        attempts=store.queries.attempts(run.id),
        history=store.history.of_run(run.id),
        waits_for=store.status.run_waits_for(run, boot_id()),
        command=command(run, home()),
        base=base_values(sweep, run.overrides),
        lives=is_held(home().run_lock(run.id)),
        worker=worker_alive() is not None,
    )


def _freeze(story: "Story") -> None:
    """Let the command work by hand: its config is written before the first launch only."""
    from orchestrator.system.files import freeze
    from orchestrator.system.paths import home

    # Somebody who may look and not write still gets the story.
    with contextlib.suppress(OSError):
        freeze(home().make().frozen_config(story.sweep.id), story.sweep.config_text)


def one_run(store: "Store", ref: str) -> "Run":
    """The single run that `ref` means; UsageError where it means several."""
    from orchestrator.errors import UsageError

    runs = store.queries.find_runs(ref)
    if len(runs) != 1:
        ids = ", ".join(str(run.id) for run in runs[:8]) + (", …" if len(runs) > 8 else "")
        raise UsageError(f"{ref}: {len(runs)} runs; name one of them: {ids}")
    return runs[0]


def _print_plots(run: "Run", sweep: "Sweep") -> None:
    from orchestrator.results.training_log import read_curves
    from orchestrator.views.plot import curve_plot, shows_braille

    out = console()
    width = min(out.width, _PLOT_WIDTH) if out.is_terminal else _PLOT_WIDTH
    curves = read_curves(run.folder, dict.fromkeys(("reward_mean", sweep.objective.metric)))
    for name, curve in curves.items():
        lines = curve_plot(name, curve, width, braille=shows_braille(sys.stdout.encoding))
        print("\n" + "\n".join(lines) if lines else f"\n{name}: not logged yet")
