"""How long training takes until a held-out score: each technique, all together, and a peer.

    python benchmarks/time_to_score.py [--seeds 5] [--task NAME]... [--only CONTENDER]...
                                       [--peer mlx-lm-lora[==VERSION]] [--peer-blas]
                                       [--json FILE] [--plot FILE.png] [--no-runs]

The embedded model learns two tasks (`_learning/tasks.py`) from the same start, by the same rate,
until its exact match on 200 held-out rows has reached a score, or until its time is up. What counts
is training: start-up and evaluation are left out. The processor's seconds stand first, since other
programs disturb them less than those of the wall. A peer gets the same model, rows, reward and
rate, and its adapters are scored by our evaluator.

Runs go seed by seed. With `--json` each is written down as soon as it has ended, and those that are
there already are not run again, so that the command can be stopped and goes on.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
if Path(sys.path[0]) == HERE:
    # Run as a script: this folder's queue.py would stand in for the standard library's.
    sys.path[0] = str(HERE.parent)

from benchmarks._learning import runs  # noqa: E402
from benchmarks._learning.tables import plot, show  # noqa: E402
from benchmarks._learning.tasks import CONTENDERS, TASKS  # noqa: E402
from benchmarks._trainer import peer_venv  # noqa: E402


def _write(found, path):
    """Beside it first, so that a stop leaves the old file or the new one."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(beside, path)


def measure(found, args, peers):
    """Run what is asked for and not there yet."""
    for task in TASKS:
        if not args.task or task.name in args.task:
            task.prepare()
    there = {(run["task"], run["contender"], run["seed"]) for run in found}
    for seed in range(args.seeds):
        for task in TASKS:
            for name in (*CONTENDERS, *peers):
                wanted = not args.task or task.name in args.task
                wanted = wanted and (not args.only or name in args.only)
                if not wanted or (task.name, name, seed) in there:
                    continue
                began = time.monotonic()
                points = (
                    runs.peers(task, peers[name], seed)
                    if name in peers
                    else runs.ours(task, CONTENDERS[name], seed)
                )
                found.append({"task": task.name, "contender": name, "seed": seed, "points": points})
                last = points[-1]
                print(
                    f"{task.name}, {name}, seed {seed}: {last['score']:.3f} after "
                    f"{last['cpu_s']:.1f} s of the processor, {last['update']} updates "
                    f"({time.monotonic() - began:.0f} s in all)",
                    file=sys.stderr,
                    flush=True,
                )
                if args.json:
                    _write(found, args.json)


def main():
    """Run, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--task", action="append", choices=[task.name for task in TASKS])
    parser.add_argument("--only", action="append")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME[==VERSION]")
    parser.add_argument("--peer-venv", action="append", default=[], type=Path)
    parser.add_argument("--peer-blas", action="store_true", help="the peer over our BLAS as well")
    parser.add_argument("--json", type=Path, help="what there is; goes on from it")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--no-runs", action="store_true", help="only show what --json has")
    args = parser.parse_args()
    found = json.loads(args.json.read_text()) if args.json and args.json.exists() else []
    if not args.no_runs:
        known = peer_venv.peers_of(args.peer, args.peer_venv, args.peer_blas)
        measure(found, args, {peer.label: peer for peer in known})
    show(found)
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
