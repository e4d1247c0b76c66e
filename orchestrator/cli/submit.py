"""`grpo-sweep submit`: check a spec, show or queue its runs."""

import os
from pathlib import Path

import click

from orchestrator.cli.background import say_no_worker, start_worker
from orchestrator.cli.options import complete_field, json_option, later_option, set_option
from orchestrator.cli.output import busy, console, print_json, say
from orchestrator.cli.queued import print_queued
from orchestrator.cli.references import Ref, open_queue
from orchestrator.errors import UsageError
from orchestrator.plan.expand import Expansion, expand
from orchestrator.spec.from_params import spec_from_params
from orchestrator.spec.reader import parse_spec, read_spec
from orchestrator.submit import forecast_of, previewed_plan, queue_sweep, recognised
from orchestrator.text import duration, settings, size
from orchestrator.views.json_shapes import submit_shape
from orchestrator.views.plan import expansion_text, forecast_text, plan_table, set_line
from orchestrator.worker.probe import check, heaviest


@click.command()
@click.argument("spec", required=False, type=click.Path(path_type=Path))
@click.option("--config", metavar="FILE", help="Without SPEC: the base; default as for run.")
@click.option(
    "--param",
    "params",
    metavar="KEY=V1,V2",
    multiple=True,
    shell_complete=complete_field,
    help="Without SPEC: a field and the values to try; repeat for more.",
)
@set_option
@click.option(
    "--dry-run", is_flag=True, help="Show the runs and their exact commands; queue nothing."
)
@click.option(
    "--check", is_flag=True, help="First train one update of the setting that needs most memory."
)
@click.option("--start", is_flag=True, help="Start a worker in the background if none runs.")
@click.option("--priority", default=0, help="Higher is trained first; 0 if not given.")
@click.option("--after", type=Ref(), metavar="SWEEP", help="Wait until that sweep is done.")
@click.option(
    "--again", is_flag=True, help="Train settings anew that are done already, or queued elsewhere."
)
@click.option(
    "--frozen", is_flag=True, help="Hold the sweep if data, rewards, code or packages change."
)
@later_option
@json_option
def submit(
    spec: Path | None,
    config: str | None,
    params: tuple[str, ...],
    overrides: tuple[str, ...],
    dry_run: bool,
    check: bool,
    start: bool,
    priority: int,
    after: str | None,
    again: bool,
    frozen: bool,
    later: bool,
    as_json: bool,
) -> None:
    """Queue the runs of the sweep SPEC (a TOML file), or of what --param says.

    A setting that was trained before is not trained again: its result is shown.

    \b
    Examples:
      grpo-sweep submit sweeps/lr.toml --dry-run
      grpo-sweep submit sweeps/lr.toml --set max_train_samples=50 --start
      grpo-sweep submit sweeps/long.toml --after lr
      grpo-sweep submit --config configs/tiny.toml --param learning_rate=1e-4,1e-3
    """
    expansion = _read(spec, config, params, overrides)
    if check:
        _check_heaviest(expansion)
    if dry_run:
        _show_plan(expansion, as_json, later)
        return
    with open_queue() as store, busy("queueing the runs"):
        waits_for = store.queries.sweep(after).id if after else None
        sweep, runs = queue_sweep(
            store,
            expansion,
            priority=priority,
            after=waits_for,
            again=again,
            frozen=frozen,
            later=later,
        )
        known = recognised(store, runs)
    print_queued(expansion, sweep, runs, as_json, known)
    if start:
        start_worker()
    else:
        say_no_worker()


def _read(
    spec: Path | None, config: str | None, params: tuple[str, ...], overrides: tuple[str, ...]
) -> Expansion:
    """The sweep of a spec, or of options; the spec for which those stand is shown."""
    if (spec is None) is not bool(params):
        raise UsageError("name a SPEC, or give --param KEY=V1,V2 (with --config FILE) instead")
    if spec is None:
        path, text = spec_from_params(config, params)
        say(f"# {path}: the spec that this stands for\n{text}")
        return expand(parse_spec(text, path, overrides))
    if config is not None:
        raise UsageError(f"--config goes with --param; {spec} names its own base")
    with busy(f"reading {spec}"):
        return expand(read_spec(spec, overrides))


def _check_heaviest(expansion: Expansion) -> None:
    """Train one update of the setting that needs the most memory; SweepError where that fails."""
    for setting in heaviest(expansion.spec, expansion.settings):
        words = settings(setting.overrides) or "the base as it is"
        say(f"check: one update of what needs the most memory: {words}")
        seen = check(expansion.spec, setting, os.getcwd())
        length = seen.completion_tokens
        tokens = "" if length is None else f", completions of {length:.0f} tokens on average"
        say(
            f"check: peak {size(seen.peak_bytes)}, {seen.update_s:.1f} s an update{tokens}; "
            f"with loading {duration(seen.wall_s)}"
        )


def _show_plan(expansion: Expansion, as_json: bool, later: bool) -> None:
    """The runs as a table and as commands to copy; nothing is queued."""
    with open_queue(readonly=True) as store:
        plan = previewed_plan(store, expansion, later)
        found = forecast_of(store, plan)
    if as_json:
        print_json(submit_shape(plan.name, None, [(None, run.name, run.set) for run in plan.runs]))
    else:
        console().print(plan_table(plan, expansion.differing))
        print()
        for run in plan.runs:
            print(set_line(plan, run))
    say(f"{expansion_text(expansion)}; dry run: nothing was queued")
    say(forecast_text(found))
