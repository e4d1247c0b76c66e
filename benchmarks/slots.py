"""What slots bring: two against one, and a thousand runs over eight, with the fake trainer.

    python benchmarks/slots.py two  [--runs 8] [--run-s 5]
    python benchmarks/slots.py many [--runs 1000] [--slots 8] [--run-s 5]

`two` trains the same runs in one slot and in two, and prints how many times as fast two are.
`many` prints the makespan beside the ideal (runs x seconds of one / slots), and what a claim took
among the first hundred and the last, so that a cost that grows with the queue is seen. The trainer
is `tests/fake_trainer.py`: it sleeps, so that what is measured is the queue's share.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from unittest.mock import patch

from orchestrator.queue.claims import Claims
from orchestrator.queue.store import Store
from orchestrator.run import Plan, PlannedRun
from orchestrator.system.paths import ENV_HOME
from orchestrator.worker.slots import Slots
from orchestrator.worker.worker import work

FAKE = (sys.executable, str(Path(__file__).parents[1] / "tests" / "fake_trainer.py"))
UPDATES = 10


def plan(name, n, run_s, cwd):
    """A sweep of n runs that take so long."""
    words = (f"updates={UPDATES}", f"update_s={run_s / UPDATES}", f"save_steps={UPDATES}")
    runs = tuple(
        PlannedRun(f"r{i}", i, {"learning_rate": i}, (*words, f"output_dir=out/r{i}"), f"out/r{i}")
        for i in range(n)
    )
    return Plan(name, "model_name = 'builtin/tiny'\n", "tiny.toml", "# a spec\n", cwd, runs)


def makespan(n, run_s, slots, claims=None):
    """Seconds from the worker's start to its end; what each claim took is added to `claims`."""
    claim = Claims.claim

    def timed(self, *args):
        began = time.perf_counter()
        found = claim(self, *args)
        if found is not None and claims is not None:
            claims.append(time.perf_counter() - began)
        return found

    with tempfile.TemporaryDirectory() as home:
        os.environ |= {ENV_HOME: home, "GRPO_GPU_LOCK": str(Path(home) / "gpu.lock")}
        with Store.open() as store:
            store.submissions.add_sweep("s", lambda name: plan(name, n, run_s, home))
        with patch.object(Claims, "claim", timed):
            began = time.perf_counter()
            work(until_empty=True, trainer=FAKE, prewarm=True, slots=Slots(slots))
            seconds = time.perf_counter() - began
        with Store.open() as store:
            (sweep,) = store.queries.sweeps()
            assert sweep.counts == {"completed": n}, sweep.counts
            tries = sum(len(store.queries.attempts(run.id)) for run in store.queries.runs())
            assert tries == n, f"{tries} attempts for {n} runs"
    return seconds


def two(args):
    """The same runs in one slot and in two."""
    one, both = (makespan(args.runs, args.run_s, slots) for slots in (1, 2))
    print(f"{args.runs} runs of {args.run_s:g} s: one slot {one:.1f} s, two slots {both:.1f} s: ")
    print(f"two slots are {one / both:.2f} times as fast")


def many(args):
    """Many runs over many slots."""
    claims = deque()
    seconds = makespan(args.runs, args.run_s, args.slots, claims)
    ideal = args.runs * args.run_s / args.slots
    first, last = ([*claims][:100], [*claims][-100:])
    print(f"{args.runs} runs of {args.run_s:g} s over {args.slots} slots: {seconds:.1f} s, ideal")
    print(f"{ideal:.1f} s: {seconds / ideal - 1:.1%} more")
    print(
        f"a claim among the first hundred {statistics.median(first) * 1000:.1f} ms, among the last"
        f" {statistics.median(last) * 1000:.1f} ms (median)"
    )


def main():
    """Choose what is measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("two", "many"))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--run-s", type=float, default=5.0)
    args = parser.parse_args()
    args.runs = args.runs or (8 if args.what == "two" else 1000)
    (two if args.what == "two" else many)(args)


if __name__ == "__main__":
    main()
