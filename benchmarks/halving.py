"""Does halving keep the winner? A full sweep of the embedded model, replayed under the stop rules.

For each seed every learning rate is trained to its end; `replay` then tells what a rule would have
left of it: a run is deterministic, so stopping and resuming it gives the same curve. Run with:
python benchmarks/halving.py FOLDER [SEEDS]   (some minutes; FOLDER keeps the runs)
"""

import os
import sys
from pathlib import Path

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.run import Objective
from orchestrator.stopping.curves import curve_of
from orchestrator.stopping.replay import replay
from orchestrator.stopping.rules import StopRule
from orchestrator.system.paths import home, shipped
from orchestrator.worker import worker

RATES = (1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
SPEC = """
config = "{config}"
name = "halving-{seed}"
[set]
seed = {seed}
eval_steps = 4
eval_samples = 100
[params]
learning_rate = {rates}
"""


def train(seeds: int) -> None:
    """Queue and train what is not there yet."""
    for seed in range(seeds):
        config = shipped("configs/tiny.toml")
        Path("s.toml").write_text(SPEC.format(config=config, seed=seed, rates=list(RATES)))
        main(["submit", "s.toml"])
    worker.work(until_empty=True)


def show(seeds: int, metric: str, rule: StopRule) -> None:
    """What the rule does to each seed's sweep, and over all."""
    objective = Objective(metric, "max", "last")
    kept = saved = updates = 0
    worst = 0.0
    with Store.open(home().db, readonly=True) as store:
        for seed in range(seeds):
            runs = store.queries.runs(store.queries.sweep(f"halving-{seed}").id)
            found = replay([curve_of(run) for run in runs], rule, objective)
            kept += not found.winner_killed
            saved, updates = saved + found.saved, updates + found.updates
            worst = max(worst, found.lost or 0.0)
    share = 1 - saved / updates
    words = f"{rule.rule} on {metric}, warm-up {rule.warmup:.0%}"
    print(f"{words}: winner kept {kept}/{seeds}, updates {share:.0%}, lost {worst:.3f} at most")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
    os.chdir(sys.argv[1])
    os.environ["GRPO_SWEEP_HOME"] = str(Path.cwd() / "queue")
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    train(count)
    for name in ("halving", "median"):
        show(count, "em", StopRule(name))
