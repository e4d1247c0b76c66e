"""How submit, claim, finish and status grow from 10^2 to 10^5 runs; prints JSON, makes a table.

    python benchmarks/queue.py [--most 100000] [--out queue.json]

Each size gets a queue of its own: one sweep of N runs, of which all but 100 are finished (by SQL),
so that claim and finish are measured beside N finished runs. `status` is the whole command in a
process of its own, Python's start included; what a bare interpreter takes is beside it.
"""

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from orchestrator.paths import ENV_HOME
from orchestrator.run import Outcome, Plan, PlannedRun, Progress, Verdict
from orchestrator.store import Before, Store

LEFT = 100
DONE = Outcome(Verdict.COMPLETED, "completed", "result.json: completed", 0)
PROGRESS = Progress(100, 100, {"em": 0.5, "loss": 0.1, "reward_mean": 1.2})


@contextlib.contextmanager
def timed(into, name):
    """Seconds of the block, under `name`."""
    began = time.perf_counter()
    yield
    into[name] = time.perf_counter() - began


def plan(name, n, cwd):
    """A sweep of n runs that differ in two values."""
    runs = tuple(
        PlannedRun(
            f"r{i}",
            i % 3,
            {"learning_rate": 1e-6 * i, "num_generations": 8},
            (f"learning_rate={1e-6 * i!r}", "num_generations=8", f"output_dir=outputs/{name}/r{i}"),
            f"outputs/{name}/r{i}",
        )
        for i in range(n)
    )
    return Plan(name, "model_name = 'builtin/tiny'\n", "tiny.toml", "# a spec\n", cwd, runs)


def finish_most(db, n):
    """Make all but the last runs look as if they had been trained."""
    raw = sqlite3.connect(db)
    raw.execute(
        "UPDATE runs SET state = 'completed', attempt = 1, value = 0.5, wall_s = 60.0,"
        ' "update" = 100, updates_total = 100, metrics = ? WHERE id <= ?',
        (json.dumps(PROGRESS.metrics), n - LEFT),
    )
    raw.execute(
        "INSERT INTO attempts (run_id, n, host, boot_id, checkpoint, started, ended, outcome, log)"
        " SELECT id, 1, 'h', 'b', -1, created, created, 'completed', '/log' FROM runs"
        " WHERE id <= ?",
        (n - LEFT,),
    )
    raw.commit()
    raw.close()


def claim_and_finish(store, times):
    """Median seconds of one claim and of one finish."""
    claims, finishes = [], []
    for _ in range(LEFT):
        one = {}
        with timed(one, "claim"):
            _, attempt = store.claim("h", "b", lambda run: Before(-1, None, "/log"))
        with timed(one, "finish"):
            store.finish(attempt, DONE, newer_checkpoint=True, progress=PROGRESS, value=0.5)
        claims.append(one["claim"])
        finishes.append(one["finish"])
    times["claim_s"] = statistics.median(claims)
    times["finish_s"] = statistics.median(finishes)


def wall(argv, home):
    """Median wall seconds of a command over five runs, the first left out."""
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        subprocess.run(argv, check=True, capture_output=True, env={**os.environ, ENV_HOME: home})
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


def measure(n):
    """Every figure for a queue of n runs."""
    times = {"runs": n}
    with tempfile.TemporaryDirectory() as home:
        with Store.open(Path(home) / "queue.db") as store:
            made = plan("s", n, home)
            with timed(times, "submit_s"):
                store.add_sweep("s", lambda name: made)
            finish_most(store.path, n)
            claim_and_finish(store, times)
            times["db_bytes"] = store.path.stat().st_size
        status = [sys.executable, "-m", "orchestrator", "status"]
        times["status_s"] = wall(status, home)
        times["status_json_s"] = wall([*status, "--json"], home)
        times["python_s"] = wall([sys.executable, "-c", "pass"], home)
    return times


def main():
    """Measure sizes up to --most, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows = []
    for n in (100, 1_000, 10_000, 100_000):
        if n <= args.most:
            rows.append(measure(n))
            print(json.dumps(rows[-1]), flush=True)
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
