"""`grpo-sweep confirm`, `fork` and `extend`: more runs from what a sweep has found so far."""

from pathlib import Path
from typing import Any

import click

from orchestrator.cli.background import say_no_worker, start_worker
from orchestrator.cli.options import json_option, later_option, set_option
from orchestrator.cli.output import print_json, say
from orchestrator.cli.queued import print_queued
from orchestrator.cli.references import Ref, one_run, open_queue
from orchestrator.plan.expand import expand
from orchestrator.plan.extend import extension
from orchestrator.plan.follow_up import confirm_spec, finalists, fork_spec
from orchestrator.run import Sweep
from orchestrator.spec.spec import Spec
from orchestrator.submit import queue_sweep, recognised
from orchestrator.text import plural
from orchestrator.views.json_shapes import submit_shape
from orchestrator.views.plan import recognised_text, set_line


class Seeds(click.ParamType[tuple[int, ...]]):
    """Seeds such as `100,101,102` or `100-109`."""

    name = "seeds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """The seeds; a usage error where the text holds something else."""
        if isinstance(value, tuple):
            return value
        found: list[int] = []
        for part in str(value).split(","):
            first, dash, last = part.strip().partition("-")
            if not first.isdecimal() or (dash and not last.isdecimal()) or len(part) > 20:
                self.fail(f"{value!r}: write seeds such as 100,101,102 or 100-109", param, ctx)
            found += range(int(first), min(int(last or first), int(first) + 10_000) + 1)
        if not found or len(set(found)) < len(found):
            self.fail(f"{value!r}: needs seeds, each once", param, ctx)
        return tuple(found)


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option("--top", default=3, show_default=True, type=click.IntRange(1), help="How many.")
@click.option(
    "--seeds", required=True, type=Seeds(), metavar="LIST", help="Such as 100,101,102 or 100-109."
)
@click.option("--dry-run", is_flag=True, help="Show the runs; queue nothing.")
@click.option("--start", is_flag=True, help="Start a worker in the background if none runs.")
@later_option
@json_option
def confirm(
    sweep: str,
    top: int,
    seeds: tuple[int, ...],
    dry_run: bool,
    start: bool,
    later: bool,
    as_json: bool,
) -> None:
    """Train the best settings of a SWEEP again, on fresh seeds and scored on fresh rows.

    The best of many settings is partly luck. Their runs evaluate on held-out rows that no
    selection has seen (eval_part = "confirm"), so `best` of the new sweep is an honest figure.

    \b
    Examples:
      grpo-sweep confirm lr --top 3 --seeds 100-104 --start
    """
    with open_queue(readonly=True) as store:
        found = store.queries.sweep(sweep)
        runs = store.queries.runs(found.id)
    best = finalists(found, runs, top)
    if len(best) < top:
        say(f"sweep {found.name} has only {plural(len(best), 'setting')} with a result")
    spec = confirm_spec(found, runs, best, seeds)
    _submit(spec, found, dry_run, start, later, as_json)


@click.command()
@click.argument("run", type=Ref(runs=True, sweeps=False))
@click.option("--at", "update", type=click.IntRange(0), metavar="N", help="Default: the newest.")
@set_option
@click.option("--dry-run", is_flag=True, help="Show the run; queue nothing.")
@click.option("--start", is_flag=True, help="Start a worker in the background if none runs.")
@later_option
@json_option
def fork(
    run: str,
    update: int | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    start: bool,
    later: bool,
    as_json: bool,
) -> None:
    """Start a new run from the checkpoint of a RUN, with some values changed.

    It takes the weights that the RUN had after update N; optimizer, schedule and data begin anew.

    \b
    Example:
      grpo-sweep fork 12 --at 200 --set learning_rate=1e-6
    """
    with open_queue(readonly=True) as store:
        parent = one_run(store, run)
        sweep = store.queries.sweep_of(parent)
    spec = fork_spec(parent, sweep, update, overrides)
    _submit(spec, sweep, dry_run, start, later, as_json)


def _submit(
    spec: Spec, sweep: Sweep, dry_run: bool, start: bool, later: bool, as_json: bool
) -> None:
    """Queue a spec that came from a sweep, in the folder from which that was submitted."""
    expansion = expand(spec)
    if dry_run:
        plan = expansion.plan(spec.name, sweep.cwd)
        for run in plan.runs:
            print(set_line(plan, run))
        say("dry run: nothing was queued")
        return
    with open_queue() as store:
        queued, runs = queue_sweep(store, expansion, cwd=sweep.cwd, later=later)
    print_queued(expansion, queued, runs, as_json, {})
    if start:
        start_worker()
    else:
        say_no_worker()


# --- extend


@click.command()
@click.argument("sweep", type=Ref())
@click.argument("spec", type=click.Path(path_type=Path))
@set_option
@later_option
@json_option
def extend(sweep: str, spec: Path, overrides: tuple[str, ...], later: bool, as_json: bool) -> None:
    """Add to a SWEEP what its changed SPEC has more, and keep all that it has.

    New values, runs and seeds are queued behind the others; what the spec no longer names stays.
    The --set options of the submit count again unless new ones are given.

    \b
    Examples:
      grpo-sweep extend lr sweeps/lr.toml
    """
    with open_queue() as store:
        found = store.queries.sweep(sweep)
        sets = overrides or found.submitted.overrides
        added = store.submissions.extend(
            found.id, lambda now, runs: extension(now, runs, spec, sets, later)
        )
        after = store.queries.sweep(found.name)
        known = recognised(store, added)
    if as_json:
        print_json(submit_shape(after.name, after.id, [(r.id, r.name, r.set) for r in added]))
    else:
        more = after.to_ask - found.to_ask
        words = f"; {plural(more, 'setting')} more to be chosen by {after.search.method}"
        print(f"sweep {after.name}: {plural(len(added), 'run')} added{words if more else ''}")
    if known:
        say(f"{recognised_text(known)}; what is done is shown and not trained again")
    say_no_worker()
