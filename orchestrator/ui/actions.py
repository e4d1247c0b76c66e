"""What the buttons do: the same changes of state as the commands, each one transaction.

Two browsers may ask at once: the second gets what the queue says to that.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from orchestrator.errors import UsageError
from orchestrator.plan.expand import Expansion, expand
from orchestrator.queue.control import Control
from orchestrator.queue.store import Store
from orchestrator.run import Run, RunState
from orchestrator.spec.reader import parse_spec
from orchestrator.submit import forecast_of, previewed_plan, queue_sweep, recognised
from orchestrator.system.paths import ENV_HOME, Home
from orchestrator.system.processes import signal_process
from orchestrator.text import plural, setting_value
from orchestrator.ui.shapes import Shape
from orchestrator.views.plan import expansion_text, forecast_text, recognised_text, set_line
from orchestrator.worker.detach import spawn_detached
from orchestrator.worker.serving import is_served, serving_worker, worker_to_stop

# Where a pasted spec counts as lying, so that its relative paths start in the server's folder.
PASTED = Path("pasted.toml")
# A preview names no more runs than a window shows.
_PREVIEWED = 200

_RUN_ACTIONS: dict[str, tuple[Callable[[Control, Sequence[int]], list[Run]], str]] = {
    "cancel": (Control.cancel, "cancelled"),
    "pause": (Control.pause, "paused"),
    "resume": (Control.resume, "queued again"),
    "retry": (Control.retry, "queued again"),
    "first": (Control.move_first, "next"),
}


def change_run(home: Home, run_id: int, action: str) -> str:
    """Do what a button of a run asks for; what came of it. UsageError, NothingAffected."""
    if action not in _RUN_ACTIONS:
        raise UsageError(f"{action}: no such action")
    change, done = _RUN_ACTIONS[action]
    with Store.open(home.db) as store:
        run = change(store.control, [run_id])[0]
    if run.state is RunState.RUNNING:
        _tidy(home)
        return f"Run {run.id} is asked to stop; it checkpoints first."
    return f"Run {run.id}: {done}."


def pause_queue(home: Home) -> str:
    """Start nothing more; what runs checkpoints and waits."""
    with Store.open(home.db) as store:
        running = store.control.pause_queue()
    if running:
        _tidy(home)
    return "The queue is paused."


def resume_queue(home: Home) -> str:
    """Let the queue go on."""
    with Store.open(home.db) as store:
        store.control.resume_queue()
    return "The queue goes on."


def change_slot(home: Home, slot: str, action: str) -> str:
    """Pause a slot, or let it go on. UsageError, NothingAffected."""
    if action not in ("pause", "resume"):
        raise UsageError(f"{action}: no such action")
    with Store.open(home.db) as store:
        if action == "resume":
            store.control.resume_slot(slot)
            return f"Slot {slot} goes on."
        worker = serving_worker(home)
        running = store.control.pause_slot(slot, worker.pausable if worker else ())
    if running:
        _tidy(home)
    return f"Slot {slot} is paused; what it trained goes on in another."


def _tidy(home: Home) -> None:
    """Without a worker nobody else would stop a running trainer."""
    if not is_served(home):
        # In a process of its own: it takes signals and its time, and outlives this server.
        code = "from orchestrator.worker.worker import tidy; tidy()"
        subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, ENV_HOME: str(home.root)},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


# --- the worker


def start_worker(home: Home) -> str:
    """A worker in the background; WorkerBusy where one serves already."""
    pid = spawn_detached(home)
    return f"A worker runs (pid {pid})."


def stop_worker(home: Home) -> str:
    """As Ctrl-C: what runs checkpoints and goes back into the queue."""
    signal_process(worker_to_stop(home), signal.SIGTERM)
    return "The worker is asked to stop; what runs checkpoints first and stays queued."


# --- a pasted spec


def preview(home: Home, text: str) -> Shape:
    """What a spec would queue; SpecError with every fault, as at submit."""
    expansion = _expanded(text)
    with Store.open(home.db, readonly=True) as store:
        plan = previewed_plan(store, expansion)
        forecast = forecast_of(store, plan)
    keys = list(expansion.differing)
    return {
        "name": plan.name,
        "summary": expansion_text(expansion),
        "forecast": forecast_text(forecast),
        "keys": keys,
        "runs": [
            {
                "name": run.name,
                "values": [setting_value(run.overrides.get(key, run.seed)) for key in keys],
                "command": set_line(plan, run),
            }
            for run in plan.runs[:_PREVIEWED]
        ],
        "more": max(0, len(plan.runs) - _PREVIEWED),
    }


def submit(home: Home, text: str) -> Shape:
    """Queue a spec as its preview showed it; SpecError."""
    expansion = _expanded(text)
    with Store.open(home.db) as store:
        sweep, runs = queue_sweep(store, expansion)
        known = recognised(store, runs)
    words = f"Sweep {sweep.name}: {plural(len(runs), 'run')} queued."
    more = f" {recognised_text(known)}." if known else ""
    return {"id": sweep.id, "name": sweep.name, "message": words + more}


def _expanded(text: str) -> Expansion:
    if not text.strip():
        raise UsageError("there is no spec to read: paste one")
    return expand(parse_spec(text, PASTED))


def folder_of_specs() -> str:
    """Where the relative paths of a pasted spec start."""
    return os.getcwd()
