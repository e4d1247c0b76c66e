"""What a prepared trainer saves between two runs: a sweep of short runs with and without one.

    python benchmarks/prewarm.py [--runs 8] [--rounds 2] [--json]

Trains the same sweep of the embedded model with `work --prewarm` and `--no-prewarm` in turn, each
in a queue of its own. Idle is the time in which no process holds the GPU's lock, between the first
run and the last, as the kernel tells it (/proc/locks, so on Linux only): from the end of a run's
training, over its exit, the worker's record of it and the next one's start, to where the next
trainer may touch the device. Loading the model comes after that.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from orchestrator.system.paths import ENV_HOME, shipped

SPEC = """
config = "{config}"
[set]
max_train_samples = 48
save_steps = 0
eval_samples = 50
[params]
learning_rate = {rates}
"""
LOOK_S = 0.002


class Idle(threading.Thread):
    """Notes how long nobody holds an flock on a file, by looking every few milliseconds."""

    def __init__(self, lock):
        super().__init__(daemon=True)
        self._lock = lock
        self._done = threading.Event()
        self.gaps_s = []

    def run(self):
        """Look until told to stop."""
        free_since, held_before = None, False
        while not self._done.wait(LOOK_S):
            held, now = self._is_held(), time.perf_counter()
            if held and free_since is not None:
                self.gaps_s.append(now - free_since)
                free_since = None
            elif not held and held_before:
                free_since = now
            held_before = held

    def _is_held(self):
        try:
            node = f":{self._lock.stat().st_ino} "
        except FileNotFoundError:
            return False
        return any(node in line for line in Path("/proc/locks").read_text().splitlines())

    def stop(self):
        """What it has seen."""
        self._done.set()
        self.join()
        return self.gaps_s


def grpo_sweep(*words, env, cwd):
    """One command, its output kept for an error."""
    argv = [sys.executable, "-P", "-m", "orchestrator", *words]
    done = subprocess.run(argv, env=env, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def sweep(runs, option):
    """Seconds of a whole sweep, and its gaps."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder) / "gpu.lock"
        env = {**os.environ, ENV_HOME: f"{folder}/home", "GRPO_GPU_LOCK": str(lock)}
        rates = [1e-4 * (i + 1) for i in range(runs)]
        spec = Path(folder) / "short.toml"
        spec.write_text(SPEC.format(config=shipped("configs/tiny.toml"), rates=rates))
        grpo_sweep("submit", str(spec), env=env, cwd=folder)
        watch = Idle(lock)
        watch.start()
        began = time.perf_counter()
        grpo_sweep("work", "--until-empty", option, env=env, cwd=folder)
        wall_s = time.perf_counter() - began
        gaps_s = watch.stop()
        told = json.loads(grpo_sweep("status", "short", "--json", env=env, cwd=folder))
        states = {run["state"] for run in told["runs"]}
        assert states == {"completed"} and len(gaps_s) == runs - 1, (states, gaps_s)
    return {"wall_s": wall_s, "gaps_s": gaps_s}


def table(rounds):
    """The figures as Markdown."""
    lines = ["| | wall | idle, median | idle, most | idle, all |", "|---|---:|---:|---:|---:|"]
    for option, row in rounds:
        gaps = row["gaps_s"]
        lines.append(
            f"| `work {option}` | {row['wall_s']:.1f} s | {statistics.median(gaps):.2f} s"
            f" | {max(gaps):.2f} s | {sum(gaps):.1f} s |"
        )
    return "\n".join(lines)


def main():
    """The sweep in both ways, in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not Path("/proc/locks").exists():
        sys.exit("needs /proc/locks, which tells who holds the GPU's lock: Linux only")
    rounds = [
        (option, sweep(args.runs, option))
        for _ in range(args.rounds)
        for option in ("--no-prewarm", "--prewarm")
    ]
    print(json.dumps(rounds) if args.json else table(rounds))


if __name__ == "__main__":
    main()
