"""`grpo-sweep run`: one run now, exactly as `mlx-grpo` does it, or queued as a sweep of one."""

import os
import sys

import click

from grpo_core.config import config_path, resolve_config
from orchestrator.cli.background import say_no_worker
from orchestrator.cli.options import later_option, set_option
from orchestrator.cli.output import say
from orchestrator.cli.references import open_queue
from orchestrator.errors import UsageError
from orchestrator.submit import queue_run
from orchestrator.worker.launcher import TRAINER


@click.command(context_settings={"ignore_unknown_options": True})
@click.option(
    "--config",
    type=click.Path(),
    metavar="FILE",
    help="The base; default: MLX_GRPO_CONFIG, else configs/default.toml.",
)
@set_option
@click.option("--queue", "to_queue", is_flag=True, help="Put it into the queue instead.")
@click.option("--again", is_flag=True, help="With --queue: train also what was trained before.")
@later_option
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[TRAINER OPTION]...")
def run(
    config: str | None,
    overrides: tuple[str, ...],
    to_queue: bool,
    again: bool,
    later: bool,
    more: tuple[str, ...],
) -> None:
    """Train one run now: the same resolution, log and exit code as mlx-grpo.

    Other options go to the trainer as they are, such as --strict or --no-wait.

    \b
    Example:
      grpo-sweep run --config configs/tiny.toml --set learning_rate=1e-4 --set seed=7
    """
    if spec := next((word for word in more if word.endswith((".toml", ".yaml", ".yml"))), None):
        raise UsageError(
            f"{spec}: run takes a training configuration as --config {spec}; "
            f"a sweep spec is queued with: grpo-sweep submit {spec}"
        )
    if to_queue:
        _queue(config, overrides, more, again, later)
    elif again:
        raise UsageError("--again goes with --queue; without it another output_dir trains anew")
    elif later:
        raise UsageError("--later goes with --queue; without it the run begins now")
    else:
        _become_trainer(config, overrides, more)


def _become_trainer(config: str | None, overrides: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Replace this process by the trainer, so that signals and exit code are its own."""
    words = [*TRAINER, *(["--config", config] if config is not None else [])]
    for item in overrides:
        words += ["--set", item]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], [*words, *more])


def _queue(
    config: str | None,
    overrides: tuple[str, ...],
    more: tuple[str, ...],
    again: bool,
    later: bool,
) -> None:
    """Checked strictly, as everything that is queued; a folder in use becomes DIR-2."""
    unknown = [word for word in more if word != "--strict"]
    if unknown:
        raise UsageError(f"--queue takes no {unknown[0]}: the worker starts the run")
    resolved = resolve_config(config, overrides, strict=True)
    with open_queue() as store:
        queued = queue_run(store, resolved, config_path(config), overrides, again, later)
    print(f"queued run {queued.id} (sweep {queued.sweep}) in {queued.output_dir}")
    if queued.same_as is not None:
        say(f"{queued.reason}; nothing is trained again (--again would)")
    say_no_worker()
