"""`grpo-sweep status`: what runs, what comes next, what waits; with --by what a sweep found."""

from datetime import UTC, datetime

import click

from orchestrator.cli.options import json_option, metric_option
from orchestrator.cli.output import WIDE, busy, console, print_json, uncollected
from orchestrator.cli.references import Ref, complete_swept
from orchestrator.errors import UsageError
from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.views.learning_curves import read_learning_curves
from orchestrator.views.now import last_text
from orchestrator.views.overview import Overview, read_overview
from orchestrator.views.status import TABLE_MOST, rows_for, status_picture
from orchestrator.views.tables import runs_lines
from orchestrator.worker.serving import ServingWorker, serving_worker

# A status is one screen: of a long sweep it shows what matters now.
_RUNS_SHOWN = 12
# A sweep that is named may fill a page.
_RUNS_OF_ONE = 40


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
@metric_option
@json_option
@uncollected()
def status(
    sweep: str | None = None,
    show_all: bool = False,
    keys: tuple[str, ...] = (),
    metric: str | None = None,
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
        # Not at the top: a status without --by comes sooner.
        from orchestrator.cli.pivot import print_pivot

        print_pivot(sweep or "@", keys, metric, as_json)
        return
    if metric is not None:
        raise UsageError("--metric goes with --by")
    worker = serving_worker()
    with Store.open(readonly=True) as store, busy("reading the queue"):
        sweeps = [store.queries.sweep(sweep)] if sweep else store.queries.sweeps(all=show_all)
        # Programs get every run; a person one screen, or a page of the sweep that is named.
        if as_json:
            # Not at the top: a status for people comes sooner.
            from orchestrator.views.json_shapes import recorded_shape, status_shape

            view = read_overview(store, sweeps, 0, worker=worker)
            documents = [
                d for one in sweeps for d in store.status.run_documents(one.id, recorded_shape)
            ]
        elif sweep and show_all:
            view = read_overview(store, sweeps, None, worker=worker)
        else:
            rows = rows_for(sweeps, _RUNS_OF_ONE if sweep else _RUNS_SHOWN)
            view = read_overview(store, sweeps, 0, rows, worker=worker)
    if as_json:
        warnings = [
            (run.id, warning)
            for run in view.running
            for warning in read_learning_curves(run.folder).warnings
        ]
        print_json(status_shape(worker, view, documents, warnings))
    elif not sweeps:
        print("the queue is empty; try: grpo-sweep demo   or: grpo-sweep submit SPEC")
    else:
        _print_status(worker, view, alone=sweep is not None)


def _print_status(worker: ServingWorker | None, view: Overview, alone: bool) -> None:
    out = console()
    notes = {run.id: last_text(home(), run) for run in view.running}
    width = out.width if out.is_terminal else WIDE - 1
    out.print(status_picture(view, worker, width, datetime.now(UTC), notes=notes, alone=alone))
    for sweep_id, shown in view.runs.items():
        if len(shown) > TABLE_MOST:
            swept = view.swept.get(sweep_id, ())
            print("\n" + "\n".join(runs_lines(shown, view, width, swept)))
