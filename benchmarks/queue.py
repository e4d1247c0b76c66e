"""How submit, claim, finish and status grow from 10^2 to 10^5 runs; makes a table and a picture.

    python benchmarks/queue.py [--most 100000] [--json] [--out queue.json] [--plot queue.png]

Prints a Markdown table (`--json`: a line a size as it comes); the picture needs matplotlib. Each
size gets a queue of its own: one sweep of N runs, of which all but 100 are finished (by SQL), so
that claim and finish are measured beside N finished runs. `status` is the whole command in a
process of its own, Python's start included; what a bare interpreter takes is beside it, and
`status_cpu_s` is the processor's time for it, which other programs disturb less; then the same with
`--json`, and as a table by a parameter (`--by`). Last, eight
processes claim and finish as fast as they can from one queue.
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

from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Plan, PlannedRun, Progress, Verdict
from orchestrator.system.paths import ENV_HOME

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
            _, attempt = store.claims.claim("h", "b", lambda run: Before(-1, None, "/log"))
        with timed(one, "finish"):
            store.claims.finish(attempt, DONE, newer_checkpoint=True, progress=PROGRESS, value=0.5)
        claims.append(one["claim"])
        finishes.append(one["finish"])
    times["claim_s"] = statistics.median(claims)
    times["finish_s"] = statistics.median(finishes)


def cost(argv, home):
    """Median (wall, processor) seconds of a command over five runs, the first left out."""
    walls, processor = [], []
    for _ in range(6):
        began, before = time.perf_counter(), os.times()
        subprocess.run(argv, check=True, capture_output=True, env={**os.environ, ENV_HOME: home})
        after = os.times()
        walls.append(time.perf_counter() - began)
        used = after.children_user - before.children_user
        processor.append(used + after.children_system - before.children_system)
    return statistics.median(walls[1:]), statistics.median(processor[1:])


def measure(n):
    """Every figure for a queue of n runs."""
    times = {"runs": n}
    with tempfile.TemporaryDirectory() as home:
        with Store.open(Path(home) / "queue.db") as store:
            made = plan("s", n, home)
            with timed(times, "submit_s"):
                store.submissions.add_sweep("s", lambda name: made)
            finish_most(store.path, n)
            claim_and_finish(store, times)
            times["db_bytes"] = store.path.stat().st_size
        status = [sys.executable, "-m", "orchestrator", "status"]
        times["status_s"], times["status_cpu_s"] = cost(status, home)
        times["status_json_s"], _ = cost([*status, "--json"], home)
        times["status_by_s"], _ = cost([*status, "s", "--by", "num_generations"], home)
        times["python_s"], _ = cost([sys.executable, "-c", "pass"], home)
    return times


_CLAIMER = """
import sys
from orchestrator.run import Outcome, Progress, Verdict
from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
done = Outcome(Verdict.COMPLETED, "completed", None, 0)
with Store.open() as store:
    while store.queries.waiting("b").queued:
        if claimed := store.claims.claim("h", "b", lambda run: Before(-1, None, "/log")):
            print(claimed[0].id, flush=True)
            store.claims.finish(claimed[1], done, newer_checkpoint=False, progress=Progress())
"""


def contend(runs, processes):
    """Runs a second that so many processes claim and finish, each once, together."""
    with tempfile.TemporaryDirectory() as home:
        with Store.open(Path(home) / "queue.db") as store:
            store.submissions.add_sweep("s", lambda name: plan(name, runs, home))
        began = time.perf_counter()
        words = [sys.executable, "-c", _CLAIMER]
        env = {**os.environ, ENV_HOME: home}
        claimers = [
            subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=env)
            for _ in range(processes)
        ]
        claimed = [int(line) for p in claimers for line in p.communicate()[0].split()]
        seconds = time.perf_counter() - began
    assert sorted(claimed) == list(range(1, runs + 1)), "claimed twice, or not at all"
    assert not any(p.returncode for p in claimers)
    return runs / seconds


# --- shown

COLUMNS = ("submit_s", "claim_s", "finish_s", "status_s", "status_cpu_s", "status_json_s",
           "status_by_s", "python_s")  # fmt: skip


def table(rows):
    """The figures as Markdown."""
    lines = [" | ".join(("runs", *COLUMNS)), " | ".join(["---:"] * (1 + len(COLUMNS)))]
    for row in rows:
        lines.append(" | ".join((f"{row['runs']:,}", *(f"{row[c]:.4g}" for c in COLUMNS))))
    return "\n".join(f"| {line} |" for line in lines)


def plot(rows, path):
    """Seconds over runs, both by powers of ten."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for column in COLUMNS:
        label = column.removesuffix("_s").replace("_", " ")
        axes.loglog([r["runs"] for r in rows], [r[column] for r in rows], "o-", label=label)
    axes.axhline(0.3, color="grey", linestyle=":", label="status: the aim")
    axes.set(xlabel="runs in the queue", ylabel="seconds", title="What the queue takes as it grows")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    """Measure sizes up to --most, smallest first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--most", type=int, default=100_000)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows = []
    for n in (100, 1_000, 10_000, 100_000):
        if n <= args.most:
            rows.append(measure(n))
            if args.json:
                print(json.dumps(rows[-1]), flush=True)
    if not args.json:
        print(table(rows))
    print(f"eight processes at once: {contend(400, 8):.0f} runs claimed and finished a second")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
