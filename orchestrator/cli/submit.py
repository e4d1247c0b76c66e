"""`grpo-sweep submit`: check a spec, show or queue its runs."""

import os
import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import (
    Ref,
    busy,
    console,
    json_option,
    no_worker_hint,
    open_queue,
    print_json,
    say,
    set_option,
)
from orchestrator.cli.folders import holds_another, is_done
from orchestrator.cli.preview import check_heaviest, forecast_of, forecast_words
from orchestrator.errors import SpecError

if TYPE_CHECKING:
    from orchestrator.plan.expand import Expansion
    from orchestrator.queue.store import Store
    from orchestrator.run import Plan, PlannedRun, Run, Sweep


@click.command()
@click.argument("spec", type=click.Path(path_type=Path))
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
@json_option
def submit(
    spec: Path,
    overrides: tuple[str, ...],
    dry_run: bool,
    check: bool,
    start: bool,
    priority: int,
    after: str | None,
    again: bool,
    frozen: bool,
    as_json: bool,
) -> None:
    """Queue the runs of the sweep SPEC (a TOML file).

    A setting that was trained before is not trained again: its result is shown.

    \b
    Examples:
      grpo-sweep submit sweeps/lr.toml --dry-run
      grpo-sweep submit sweeps/lr.toml --set max_train_samples=50 --start
      grpo-sweep submit sweeps/long.toml --after lr
    """
    from orchestrator.plan.expand import expand
    from orchestrator.spec.spec import read_spec

    with busy(f"reading {spec}"):
        expansion = expand(read_spec(spec, overrides))
    if check:
        check_heaviest(expansion)
    if dry_run:
        show_plan(expansion, as_json)
        return
    with open_queue() as store, busy("queueing the runs"):
        waits_for = store.queries.sweep(after).id if after else None
        sweep, runs = queue(
            store, expansion, priority=priority, after=waits_for, again=again, frozen=frozen
        )
        known = recognised(store, runs)
    tell_queued(expansion, sweep, runs, as_json, known)
    if start:
        start_worker()
    else:
        hint = no_worker_hint()
        if hint:
            say(hint)


# --- dry run


def show_plan(expansion: "Expansion", as_json: bool) -> None:
    """The runs as a table and as commands to copy; nothing is queued."""
    from orchestrator.names import folded, free_name
    from orchestrator.views.json_shapes import submit_shape
    from orchestrator.views.plan import plan_table

    with open_queue(readonly=True) as store:
        taken = {folded(sweep.name) for sweep in store.queries.sweeps(all=True)}
        name = free_name(expansion.spec.name, taken)
        plan = expansion.plan(name, os.getcwd())
        found = forecast_of(store, plan)
    refuse_taken_folders(plan, expansion.spec.source)
    if as_json:
        print_json(submit_shape(plan.name, None, [(None, run.name, run.set) for run in plan.runs]))
    else:
        console().print(plan_table(plan, expansion.differing))
        print()
        for run in plan.runs:
            print(set_line(plan, run))
    say(f"{summary(expansion)}; dry run: nothing was queued")
    say(forecast_words(found))


def set_line(plan: "Plan", run: "PlannedRun") -> str:
    """The command that trains a run by hand, as a shell takes it."""
    words = ["mlx-grpo", "--config", plan.config_source]
    for item in run.set:
        words += ["--set", item]
    return shlex.join(words)


def summary(expansion: "Expansion") -> str:
    """`8 runs = 4 settings × 2 seeds; 1 equal setting merged`."""
    from orchestrator.text import plural

    settings, seeds = len(expansion.settings), len(expansion.spec.seeds)
    words = plural(settings * max(1, seeds), "run")
    if seeds > 1:
        words += f" = {plural(settings, 'setting')} × {seeds} seeds"
    if expansion.size:
        words += f"; the first of {expansion.size:,} combinations"
    if expansion.to_ask:
        more = plural(expansion.to_ask, "setting")
        words += f"; {more} more to be chosen by {expansion.spec.search.method} as results come"
    for rule, count in expansion.dropped.items():
        what = "setting" if expansion.spec.search.method == "grid" else "draw"
        words += f"; {plural(count, what)} dropped by {rule}"
    if expansion.merged:
        words += f"; {plural(expansion.merged, 'equal setting')} merged"
    if expansion.shortfall:
        words += f"; fewer than search.runs: {expansion.shortfall}"
    return words


# --- queue


def queue(
    store: "Store",
    expansion: "Expansion",
    name: str | None = None,
    *,
    priority: int = 0,
    after: int | None = None,
    cwd: str | None = None,
    again: bool = False,
    frozen: bool = False,
) -> "tuple[Sweep, list[Run]]":
    """The sweep as queued, under its name or the next free one, all of it or nothing."""
    from orchestrator.plan.provenance import with_provenance

    folder = cwd or os.getcwd()
    wanted = name or expansion.spec.name
    # Files are read and runs are named before the transaction: both take time.
    first = with_provenance(expansion.plan(wanted, folder))

    def make(name: str) -> "Plan":
        plan = first
        if name != first.name:  # In use: the folders of its runs are others.
            plan = with_provenance(expansion.plan(name, folder), first.provenance)
        refuse_taken_folders(plan, expansion.spec.source, again)
        return replace(plan, frozen=frozen)

    sweep = store.submissions.add_sweep(wanted, make, priority=priority, after=after, again=again)
    return sweep, store.queries.runs(sweep.id)


def refuse_taken_folders(plan: "Plan", source: str, again: bool = False) -> None:
    """SpecError where a run's folder holds what another configuration has left there.

    With `again` also where the same run is completed: the trainer would leave it as it is.
    """
    taken = [run for run in plan.runs if holds_another(Path(plan.cwd, run.output_dir), run.hash)]
    if taken:
        more = f" (and {len(taken) - 1} more like it)" if len(taken) > 1 else ""
        raise SpecError(
            f"{source}: output: {taken[0].output_dir}{more} holds a run with another "
            "configuration; give the sweep another `output` or `name`, or move the folder away"
        )
    done = [run for run in plan.runs if again and is_done(Path(plan.cwd, run.output_dir))]
    if done:
        raise SpecError(
            f"{source}: output: {done[0].output_dir} holds the same run, completed; to train it "
            "--again, put {sweep} into `output`, or move the folder away"
        )


def recognised(store: "Store", runs: "list[Run]") -> str:
    """`3 done, 1 running, 8 new` where some of the runs are those of an earlier sweep, else ''."""
    owners = [store.queries.run(run.same_as).state for run in runs if run.same_as is not None]
    found = Counter("done" if state == "completed" else str(state) for state in owners)
    if not found:
        return ""
    words = [f"{found[word]} {word}" for word in ("done", "running", "paused", "queued")]
    words = [word for word in words if not word.startswith("0 ")]
    return ", ".join([*words, f"{len(runs) - len(owners)} new"])


def tell_queued(
    expansion: "Expansion", sweep: "Sweep", runs: "list[Run]", as_json: bool, known: str = ""
) -> None:
    """What was queued: the sweep and its runs as data, the rest as talk."""
    from orchestrator.views.json_shapes import submit_shape

    if as_json:
        print_json(submit_shape(sweep.name, sweep.id, [(r.id, r.name, r.set) for r in runs]))
    else:
        ids = str(runs[0].id) if len(runs) == 1 else f"{runs[0].id}-{runs[-1].id}"
        print(f"queued sweep {sweep.name} (runs {ids}): {summary(expansion)}")
    if known:
        say(f"{known}; what is done is shown and not trained again (--again would)")
    if sweep.name != expansion.spec.name:
        say(f"the name {expansion.spec.name} is in use, so this one is {sweep.name}")


def start_worker() -> None:
    """A worker in the background, unless one runs already."""
    from orchestrator.worker.detach import spawn_detached
    from orchestrator.worker.serving import worker_alive

    pid = worker_alive()
    if pid is not None:
        say(f"a worker runs already (pid {pid})")
        return
    pid = spawn_detached()
    say(f"started a worker in the background (pid {pid}); watch it with: grpo-sweep watch")
