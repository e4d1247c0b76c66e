"""`grpo-sweep run`: one run now, exactly as `mlx-grpo` does it, or queued as a sweep of one."""

import itertools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import no_worker_hint, open_queue, say, set_option
from orchestrator.errors import UsageError
from orchestrator.run import END_STATES, RunState

if TYPE_CHECKING:
    from grpo_core.config import MLXGRPOConfig
    from orchestrator.queue.store import Store
    from orchestrator.run import Plan


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
@click.argument("more", nargs=-1, type=click.UNPROCESSED, metavar="[TRAINER OPTION]...")
def run(
    config: str | None,
    overrides: tuple[str, ...],
    to_queue: bool,
    again: bool,
    more: tuple[str, ...],
) -> None:
    """Train one run now: the same resolution, log and exit code as mlx-grpo.

    Other options go to the trainer as they are, such as --strict or --no-wait.

    \b
    Example:
      grpo-sweep run --config configs/tiny.toml --set learning_rate=1e-4 --set seed=7
    """
    if to_queue:
        _queue(config, overrides, more, again)
    elif again:
        raise UsageError("--again goes with --queue; without it another output_dir trains anew")
    else:
        _become_trainer(config, overrides, more)


def _become_trainer(config: str | None, overrides: tuple[str, ...], more: tuple[str, ...]) -> None:
    """Replace this process by the trainer, so that signals and exit code are its own."""
    from orchestrator.worker.launcher import TRAINER

    words = [*TRAINER, *(["--config", config] if config is not None else [])]
    for item in overrides:
        words += ["--set", item]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(words[0], [*words, *more])


# --- --queue


def _queue(
    config: str | None, overrides: tuple[str, ...], more: tuple[str, ...], again: bool
) -> None:
    """Checked strictly, as everything that is queued; a folder in use becomes DIR-2."""
    from grpo_core.config import config_path, resolve_config
    from orchestrator.plan.provenance import with_provenance

    unknown = [word for word in more if word != "--strict"]
    if unknown:
        raise UsageError(f"--queue takes no {unknown[0]}: the worker starts the run")
    resolved = resolve_config(config, overrides, strict=True)
    source = config_path(config)
    with open_queue() as store:
        name = _sweep_name(resolved)
        # Files are read before the transaction: they may be large.
        found = with_provenance(_plan(store, name, source, overrides, resolved, again)).provenance

        def make(name: str) -> "Plan":
            return with_provenance(_plan(store, name, source, overrides, resolved, again), found)

        sweep = store.submissions.add_sweep(name, make, again=again)
        queued = store.queries.runs(sweep.id)[0]
    print(f"queued run {queued.id} (sweep {sweep.name}) in {queued.output_dir}")
    if queued.same_as is not None:
        say(f"{queued.reason}; nothing is trained again (--again would)")
    hint = no_worker_hint()
    if hint:
        say(hint)


def _sweep_name(config: "MLXGRPOConfig") -> str:
    from orchestrator.names import safe_name, sweep_name_fault

    name = safe_name(config.run_name).lstrip(".-")
    return name if not sweep_name_fault(name) else "run"


def _plan(
    store: "Store",
    name: str,
    source: str,
    overrides: tuple[str, ...],
    config: "MLXGRPOConfig",
    again: bool,
) -> "Plan":
    from grpo_core.config import config_hash, format_override
    from orchestrator.run import Plan, PlannedRun

    folder = _free_folder(store, config, again)
    own = {"output_dir": folder, "run_name": config.run_name}
    keys = dict.fromkeys(item.partition("=")[0].strip() for item in overrides)
    values = {key: getattr(config, key) for key in keys if key not in own}
    passed = {**values, **own}
    planned = PlannedRun(
        name=name,
        seed=config.seed,
        overrides={key: value for key, value in values.items() if key != "seed"},
        set=tuple(format_override(key, value) for key, value in passed.items()),
        output_dir=folder,
        hash=config_hash(config),
    )
    text = Path(source).read_text(encoding="utf-8-sig")
    return Plan(
        name=name,
        config_text=text,
        config_source=source,
        spec_text="",
        cwd=os.getcwd(),
        runs=(planned,),
    )


def _free_folder(store: "Store", config: "MLXGRPOConfig", again: bool) -> str:
    """DIR, DIR-2, ...: the first that neither the queue nor another configuration uses.

    With `again` it holds no completed run either: the trainer would leave that as it is.
    """
    from grpo_core.config import config_hash
    from orchestrator.cli.folders import holds_another, is_done
    from orchestrator.names import folded

    unfinished = store.queries.runs(states=set(RunState) - END_STATES)
    waiting = {folded(str(run.folder)) for run in unfinished}
    first = os.path.normpath(config.output_dir)
    names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    for name in names:
        folder = Path(os.getcwd(), name)
        taken = folded(str(folder)) in waiting or holds_another(folder, config_hash(config))
        if not taken and not (again and is_done(folder)):
            return name
    raise AssertionError("there is always a free folder")
