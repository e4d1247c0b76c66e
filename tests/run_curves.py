"""Curves of runs for tests of the stop rules, built from lists of values."""

from orchestrator.run import Objective, RunState
from orchestrator.stopping.curves import RunCurve
from orchestrator.stopping.rules import StopRule

METRICS = ("kl", "frac_reward_zero_std", "em", "loss", "entropy")
EM = Objective("em", "max", "last")
DONE = RunState.COMPLETED
HALVING = StopRule("halving", warmup=0.3, health=())


def run(number, values, *, metric="em", every=1, total=None, state=DONE, setting=None, **more):
    """A run that logged values at updates every, 2 * every, ..."""
    lines = [{"update": every * (i + 1), metric: value} for i, value in enumerate(values)]
    total = every * len(values) if total is None else total
    return RunCurve(number, setting or f"s{number}", lines, total, state, **more)


def median_rule(**more):
    """The median rule without health rules."""
    return StopRule("median", health=(), **more)
