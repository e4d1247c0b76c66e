"""The options that name tools outside, and a sweep on its way into one of them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.cli.output import busy, say
from orchestrator.cli.references import open_queue
from orchestrator.errors import NothingAffected, SweepError, UsageError
from orchestrator.run import RunState
from orchestrator.text import plural
from orchestrator.trackers.sending import send_all
from orchestrator.trackers.targets import NAMES, Target, target
from orchestrator.trackers.tracked import Tracked

F = TypeVar("F", bound=Callable[..., Any])

_HELP = {
    "tensorboard": ("DIR", "TensorBoard's event files in a folder (runs)."),
    "wandb": ("PROJECT", "Weights & Biases; WANDB_MODE=offline for files."),
    "mlflow": ("EXPERIMENT", "MLflow, where MLFLOW_TRACKING_URI says."),
    "trackio": ("PROJECT", "trackio, here or in a Space."),
}


def tracker_options(command: F) -> F:
    """`--tensorboard`, `--wandb`, `--mlflow`, `--trackio`: one argument `targets`."""

    @functools.wraps(command)
    def with_targets(*args: Any, **others: Any) -> Any:
        places = {name: others.pop(name) for name in NAMES}
        targets = [target(name, place) for name, place in places.items() if place is not None]
        _check_order(targets, others.get("sweep"))
        return command(*args, targets=targets, **others)

    for name in reversed(NAMES):
        metavar, text = _HELP[name]
        option = click.option(
            f"--{name}", is_flag=False, flag_value="", metavar=f"[{metavar}]", help=text
        )
        with_targets = option(with_targets)
    return with_targets  # type: ignore[return-value]


def _check_order(targets: list[Target], sweep: Any) -> None:
    """Where the sweep's name was taken for the place: `export --wandb lr`."""
    if not targets or sweep != "@":
        return
    with open_queue(readonly=True) as store:
        names = {found.name for found in store.queries.sweeps(all=True)}
    for each in targets:
        if each.place in names:
            raise UsageError(
                f"--{each.tool} {each.place}: is the name of a sweep; "
                f"the sweep comes first: export {each.place} --{each.tool}"
            )


def send_sweep(ref: str, to: Target) -> None:
    """Send what a tool does not have yet of the runs that have begun."""
    with open_queue(readonly=True) as store:
        sweep = store.queries.sweep(ref)
        # One that shows the result of another sweep's run was never started.
        runs = [
            run
            for run in store.queries.runs(sweep.id)
            if run.attempt > 0 or run.state is RunState.COMPLETED
        ]
    if not runs:
        raise NothingAffected(f"sweep {sweep.name}: no run has begun yet")
    tracked = [Tracked.of(run, sweep) for run in runs]
    with busy(f"sending {plural(len(runs), 'run')} to {to.tool}"):
        try:
            tracker = to.open()
            sent = send_all(tracker, tracked)
        except SweepError:
            raise
        # Whatever a library of others raises is its answer, and no fault of the command.
        except Exception as e:
            words = " ".join(f"{type(e).__name__}: {e}".split())
            raise SweepError(f"{to.tool} does not take sweep {sweep.name}: {words}") from e
    new = f"{plural(sent.points, 'point')} of {plural(sent.runs, 'run')} sent"
    say(f"{to.tool}: {new}, {sent.known} with what was there; see: {tracker.where}")
