"""What the queue's tests share: plans, the fake trainer, worker processes, polling."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil

from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
from orchestrator.run import (
    FIRST_SLOT,
    Limits,
    Outcome,
    Plan,
    PlannedRun,
    Progress,
    Retry,
    Verdict,
)
from orchestrator.system.paths import home

TESTS = Path(__file__).parent
FAKE = (sys.executable, str(TESTS / "fake_trainer.py"))
DEADLINE_S = 60.0
BOOT = "boot"
DONE = Outcome(Verdict.COMPLETED, "completed", "result.json: completed", 0)
OOM = Outcome(Verdict.OOM, "out of memory", "bad_alloc", 4)
STOPPED = Outcome(Verdict.INTERRUPTED, "the worker was stopped", None, 75)


def planned(name, **values):
    """One run whose overrides are `values`."""
    folder = f"out/{name}"
    words = (*(f"{k}={v}" for k, v in values.items()), f"run_name={name}", f"output_dir={folder}")
    return PlannedRun(name, 0, dict(values), words, folder)


def plan_of(cwd, *runs, limits=None, retry=None, name="s"):
    """A plan of these runs, submitted in `cwd`."""
    plan = Plan(name, "seed = 1\n", "base.toml", "name = 's'\n", str(cwd), tuple(runs))
    return replace(plan, limits=limits or Limits(), retry=retry or Retry())


def submit(cwd, *runs, name="s", **kwargs):
    """Queue these runs in the home that the environment names; the sweep."""
    with Store.open(home().db) as store:
        return store.submissions.add_sweep(
            name, lambda free: plan_of(cwd, *runs, name=free, **kwargs)
        )


def nothing_before(run):
    """A look at an output folder that holds nothing."""
    return Before(-1, None, f"/nowhere/{run.id}.log")


def claim(store, slot=FIRST_SLOT, rather_not=()):
    """The run and attempt that are claimed next for a slot, or None."""
    return store.claims.claim("host", BOOT, nothing_before, slot, rather_not)


def end(store, attempt, outcome=DONE, newer=False, progress=None):
    """Record the end of an attempt."""
    ended = store.claims.finish(
        attempt, outcome, newer_checkpoint=newer, progress=progress or Progress(), wall_s=2.0
    )
    store.duplicates.read_values(owner_id=attempt.run_id)
    return ended


def failed(verdict="oom"):
    """An outcome that is not repeated."""
    return Outcome(Verdict(verdict), "words", "a line", 4)


_WORKER = """
import json, sys
from orchestrator.errors import SweepError
from orchestrator.worker.slots import Slots
from orchestrator.worker.worker import work
def show(event):
    run = event.run and event.run.id
    print(json.dumps({"kind": event.kind, "text": event.text, "run": run}), flush=True)
try:
    how = json.loads(sys.argv[1])
    slots = Slots.parse(how.pop("slots"), how.pop("devices"))
    sys.exit(work(on_event=show, trainer=sys.argv[2:], slots=slots, **how))
except SweepError as e:
    print(e, file=sys.stderr)
    sys.exit(e.exit_code)
"""


class WorkerProcess:
    """A worker in a process of its own, its events in a file."""

    def __init__(
        self, log, until_empty=True, trainer=FAKE, prewarm=True, slots=None, devices=None, **env
    ):
        self.log = Path(log)
        how = {"until_empty": until_empty, "prewarm": prewarm, "slots": slots, "devices": devices}
        how = json.dumps(how)
        with open(self.log, "ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _WORKER, how, *trainer],
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    @property
    def text(self):
        """Everything that it has said."""
        return self.log.read_text()

    def events(self, kind):
        """Its events of one kind so far."""
        lines = [line for line in self.text.splitlines() if line.startswith("{")]
        return [e for e in map(json.loads, lines) if e["kind"] == kind]

    def signal(self, number):
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self):
        """As kill -9 does; its trainer stays."""
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def wait(self):
        """Its exit code."""
        return self.process.wait(DEADLINE_S)


def eventually(condition, deadline_s=DEADLINE_S):
    """The first true value of `condition()`, polled until the deadline."""
    deadline = time.monotonic() + deadline_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.01)
    return value


def runs():
    """Every run of the queue, read by a fresh connection."""
    with Store.open(readonly=True) as store:
        return store.queries.runs()


def states():
    """The states of all runs, in order."""
    return [str(run.state) for run in runs()]


def attempts(run_id=1):
    """The attempts of a run, read by a fresh connection."""
    with Store.open(readonly=True) as store:
        return store.queries.attempts(run_id)


def running_attempts():
    """The attempts that run by slot, once the pid of each trainer is known; none before."""
    with Store.open(readonly=True) as store:
        found = {run.slot: store.queries.attempts(run.id)[-1] for run in store.queries.running()}
    return found if all(attempt.pid for attempt in found.values()) else {}


def running_attempt(slot=FIRST_SLOT):
    """The attempt that runs in a slot, its pid known; None where there is none."""
    return running_attempts().get(slot)


def updates_logged(run):
    """The numbers of the updates in a run's training log (evaluations left out)."""
    lines = (run.folder / "training_log.jsonl").read_text().splitlines()
    return [row["update"] for row in map(json.loads, lines) if "split" not in row]


def is_alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def kill_group(pid):
    """kill -9 of a trainer and its children."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def trainers_started(folder):
    """The pid of every fake trainer, of runs submitted in `folder`, that got as far as the GPU."""
    files = (folder / "out").glob("*/starts")
    return [int(pid) for file in files for pid in file.read_text().split()]
