"""An attack on a queue for some minutes, and what is left of it: nothing lost, nothing doubled.

    python benchmarks/storm.py [--minutes 5] [--seed 1] [--runs 200] [--json]

Real workers and real processes as trainers (tests/fake_trainer.py, which keeps the trainer's
contract without a model). At random moments somebody kills or stops the worker, the trainer or
both, signals the worker, holds the database, fills the worker's disk, removes the locks, moves a
run's folder, asks for a pause, a resume or a move to the front; each worker starts with another
clock. Then the storm ends, the queue is worked off in peace, and every row, log and process is
looked at. Exits 1 if anything is wrong. Full disks are imitated under Linux only.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from benchmarks._storm_table import table
from orchestrator.errors import SweepError
from orchestrator.queue.store import Store
from orchestrator.run import Limits, Plan, PlannedRun, Retry
from orchestrator.system.paths import ENV_HOME
from orchestrator.worker.launcher import ENV_ATTEMPT

ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, str(ROOT / "tests" / "fake_trainer.py"))
UPDATES = 20
UPDATE_S = 0.03
PEACE_S = 1800.0
# Each worker's clock is off by up to so much.
CLOCK_S = 86_400.0

WORKER = """
import sys, time
from datetime import datetime
from orchestrator.queue import store
from orchestrator.worker.worker import work

off = float(sys.argv[1])
really = time.time
time.time = lambda: really() + off

class Shifted(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.fromtimestamp(time.time(), tz)

store.datetime = Shifted
sys.exit(work(trainer=sys.argv[3:], until_empty=sys.argv[2] == "until-empty", prewarm=False))
"""


class Storm:
    """A queue in a folder of its own, its worker, and what is done to both."""

    def __init__(self, folder, seed, runs):
        self.folder = folder
        self.home = folder / "home"
        self.draw = random.Random(seed)
        self.counts = Counter()
        self.signals = 0
        self.worker = None
        self.log = open(folder / "worker.log", "ab")  # noqa: SIM115  (closed with the process)
        self.submit(runs)

    def submit(self, n):
        """So many runs, tried as often as need be."""
        planned = tuple(
            PlannedRun(f"r{i}", i, {"seed": i}, (*self.words(i),), f"out/r{i}") for i in range(n)
        )
        with self.store() as store:
            store.submissions.add_sweep(
                "storm",
                lambda name: Plan(
                    name, "seed = 1\n", "storm.toml", "", str(self.folder), planned,
                    retry=Retry(max=1000), limits=Limits(max_failures=0),
                ),
            )  # fmt: skip

    def words(self, i):
        """What the i-th trainer is told."""
        yield from (f"updates={UPDATES}", f"update_s={UPDATE_S}", f"output_dir=out/r{i}")

    def store(self):
        """The queue, for a moment."""
        return Store.open(self.home / "queue.db", timeout_s=60.0)

    def start(self, until="stopped"):
        """A worker whose clock is its own."""
        off = self.draw.uniform(-CLOCK_S, CLOCK_S)
        self.counts["clock"] += 1
        self.worker = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(off), until, *FAKE],
            stdout=self.log,
            stderr=self.log,
            env={**os.environ, ENV_HOME: str(self.home), "GRPO_GPU_LOCK": str(self.home / "gpu")},
            start_new_session=True,
        )

    def trainers(self):
        """Every process of this queue but the workers."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(ENV_ATTEMPT, "").startswith(f"{self.home}#"):
                    found.append(process)
        return found

    # --- attacks

    def rage(self, minutes):
        """One attack after another, until time is up or nothing is left to do."""
        attacks = (self.kill, self.kill, self.stop, self.signal, self.lock, self.fill, self.move)
        attacks += (self.unlock, self.ask)
        until = time.monotonic() + 60.0 * minutes
        while time.monotonic() < until:
            if self.worker is None or self.worker.poll() is not None:
                self.start()
            time.sleep(self.draw.uniform(0.0, 1.0))
            attack = self.draw.choice(attacks)
            attack()
            self.counts[attack.__name__] += 1
            with self.store() as store:
                if not store.queries.runs(states=["queued", "running", "paused"], limit=1):
                    return

    def victims(self):
        """The worker, the trainer, or both."""
        who = self.draw.choice(("worker", "trainer", "both"))
        worker = [psutil.Process(self.worker.pid)] if self.worker.poll() is None else []
        return [
            *(worker if who != "trainer" else []),
            *(self.trainers() if who != "worker" else []),
        ]

    def kill(self):
        """As kill -9 does."""
        for process in self.victims():
            with contextlib.suppress(psutil.Error):
                process.kill()
                self.signals += 1

    def stop(self):
        """As a laptop that sleeps, for a moment."""
        stopped = self.victims()
        for process in stopped:
            with contextlib.suppress(psutil.Error):
                process.suspend()
                self.signals += 1
        time.sleep(self.draw.uniform(0.0, 2.0))
        for process in stopped:
            with contextlib.suppress(psutil.Error):
                process.resume()
                self.signals += 1

    def signal(self):
        """As a user at the keyboard, or a terminal that is closed."""
        for _ in range(self.draw.randint(1, 3)):
            number = self.draw.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
            with contextlib.suppress(ProcessLookupError):
                self.worker.send_signal(number)
                self.signals += 1
            time.sleep(self.draw.uniform(0.0, 0.3))

    def lock(self):
        """As another program that holds the database."""
        how = self.draw.choice(("BEGIN IMMEDIATE", "BEGIN EXCLUSIVE", "read"))
        with contextlib.closing(
            sqlite3.connect(self.home / "queue.db", timeout=10, isolation_level=None)
        ) as other:
            with contextlib.suppress(sqlite3.OperationalError):
                sql = "SELECT a.id FROM runs a, runs b, runs c" if how == "read" else how
                other.execute(sql).fetchone()
                time.sleep(self.draw.uniform(0.0, 3.0))
            if other.in_transaction:
                other.execute("ROLLBACK")

    def fill(self):
        """As a disk that is full for the worker, for a moment."""
        if sys.platform != "linux" or self.worker.poll() is not None:
            return
        import resource

        limit, pid = resource.RLIMIT_FSIZE, self.worker.pid
        with contextlib.suppress(ProcessLookupError):
            hard = resource.prlimit(pid, limit)[1]
            resource.prlimit(pid, limit, (8192, hard))
            time.sleep(self.draw.uniform(0.0, 2.0))
            resource.prlimit(pid, limit, (hard, hard))

    def unlock(self):
        """As a user who tidies up where a program keeps its locks."""
        shutil.rmtree(self.home / "locks", ignore_errors=True)

    def move(self):
        """As a user who moves a folder away, and back."""
        with self.store() as store:
            run = next(iter(store.queries.running()), None)
        if run is None or not run.folder.exists():
            return
        aside = run.folder.with_name(f"moved-{run.id}")
        with contextlib.suppress(OSError):
            run.folder.rename(aside)
            time.sleep(self.draw.uniform(0.0, 0.5))
            if not run.folder.exists():
                aside.rename(run.folder)

    def ask(self):
        """As a user who changes their mind."""
        with self.store() as store:
            runs = store.queries.runs()
            some = [run.id for run in self.draw.sample(runs, 3)]
            word = self.draw.choice(("pause", "resume", "move_first"))
            with contextlib.suppress(SweepError):
                getattr(store.control, word)(some)

    # --- afterwards

    def calm(self):
        """Work off what is left, undisturbed."""
        self.worker.send_signal(signal.SIGCONT)
        self.worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.worker.wait(120)
        if self.worker.poll() is None:
            self.worker.kill()
            self.worker.wait()
        with self.store() as store:
            paused = [run.id for run in store.queries.runs(states=["paused"])]
            if paused:
                store.control.resume(paused)
        self.start(until="until-empty")
        self.worker.wait(PEACE_S)

    def faults(self):
        """Everything that is not as it must be."""
        if left := self.trainers():
            yield f"{len(left)} processes are left: {[p.pid for p in left]}"
        with self.store() as store:
            if damage := store.queries.damage():
                yield f"the database: {damage}"
            runs = store.queries.runs()
            made = {run.id: store.queries.attempts(run.id) for run in runs}
            counts = store.queries.sweep("storm").counts
        if dict(counts) != dict(Counter(run.state for run in runs)):
            yield f"the counts do not add up: {counts}"
        for run in runs:
            yield from (f"run {run.id}: {fault}" for fault in self._faults_of(run, made[run.id]))
        self.outcomes = Counter(attempt.outcome for of in made.values() for attempt in of)

    def _faults_of(self, run, attempts):
        if run.state != "completed":
            yield f"{run.state}: {run.reason}"
            return
        if [a.n for a in attempts] != list(range(1, len(attempts) + 1)):
            yield "an attempt is missing"
        if any(a.ended is None for a in attempts):
            yield "an attempt has no end"
        if [a.outcome for a in attempts].count("completed") != 1:
            yield "not completed just once"
        if any(a.exit_code == 99 for a in attempts):
            yield "two trainers held the GPU"
        lines = (run.folder / "training_log.jsonl").read_text().splitlines()
        logged = [row["update"] for row in map(json.loads, lines) if "split" not in row]
        if logged != list(range(1, UPDATES + 1)):
            yield f"its log holds the updates {logged}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        storm = Storm(Path(name).resolve(), args.seed, args.runs)
        began = time.monotonic()
        try:
            storm.rage(args.minutes)
            raged_s = time.monotonic() - began
            storm.calm()
            faults = list(storm.faults())
        finally:
            for process in [*storm.trainers(), *([storm.worker] if storm.worker else [])]:
                with contextlib.suppress(psutil.Error, ProcessLookupError):
                    process.kill()
    figures = {
        "seed": args.seed,
        "minutes": round(raged_s / 60, 1),
        "runs": args.runs,
        "signals": storm.signals,
        "attacks": dict(sorted(storm.counts.items())),
        "attempts": dict(sorted(storm.outcomes.items())),
        "faults": faults,
    }
    print(json.dumps(figures) if args.json else shown(figures))
    return 1 if faults else 0


def shown(figures):
    """The figures as Markdown."""
    first = (
        f"seed {figures['seed']}, {figures['minutes']} minutes, {figures['runs']} runs, "
        f"{figures['signals']} signals"
    )
    counted = {"attack": figures["attacks"], "attempts ended": figures["attempts"]}
    return table(first, counted, figures["faults"])


if __name__ == "__main__":
    sys.exit(main())
