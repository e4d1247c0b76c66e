"""Successive halving against hand and numpy, and against its own replay."""

import math
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.run import Objective, RunState
from orchestrator.stopping.curves import RunCurve
from orchestrator.stopping.halving import halving
from orchestrator.stopping.median import below_median
from orchestrator.stopping.replay import replay
from orchestrator.stopping.rules import StopRule
from tests.run_curves import DONE, EM, HALVING, median_rule, run


def test_half_goes_on_at_each_rung():
    """Nine runs of ten updates: four go on at 3, two at 6, by hand."""
    curves = [run(i, [i / 10] * 10) for i in range(9)]
    steps = halving(curves, HALVING, EM)
    ends = {i: steps[i].until for i in range(9)}
    assert ends == {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 6, 6: 6, 7: 10, 8: 10}
    assert {i for i in range(9) if steps[i].decision} == {0, 1, 2, 3, 4, 5, 6}
    assert steps[4].decision.reason == (
        "halving: em 40.0% at 30% of the run; the best 4 of 9 settings have 50.0% or better"
    )
    assert steps[6].decision.evidence == "rung 2, update 6: 80.0%, 70.0%, 60.0%, 50.0%"


def test_nobody_is_judged_before_all_have_come_to_the_rung():
    """Those that have wait; a failed run is not waited for."""
    curves = [
        run(0, [0.1, 0.1, 0.1], total=10, state=RunState.PAUSED),
        run(1, [0.5, 0.5, 0.5], total=10, state=RunState.PAUSED),
        run(2, [0.9], total=10, state=RunState.RUNNING),
    ]
    steps = halving(curves, HALVING, EM)
    assert {(c.until, c.decision) for c in steps.values()} == {(3, None)}
    failed = [*curves[:2], replace(curves[2], state=RunState.FAILED)]
    steps = halving(failed, HALVING, EM)
    assert steps[0].decision is not None
    assert (steps[1].until, steps[1].decision) == (6, None)


def test_ties_and_missing_values_keep_a_run():
    """A sweep in which all score 0 has nothing to go by; nor has a run without an evaluation."""
    level = [run(i, [0.0] * 10) for i in range(6)]
    assert not any(step.decision for step in halving(level, HALVING, EM).values())
    silent = [*level[:2], run(2, [0.5] * 10), run(3, [None] * 10)]
    stopped = {i for i, step in halving(silent, HALVING, EM).items() if step.decision}
    assert stopped == {0, 1}


def test_an_evaluation_before_training_is_no_evidence():
    """It is the same model in every run, whatever the setting."""
    first = {"update": 0, "em": 0.9, "split": "test"}
    idle = RunCurve(0, "s0", [first, *({"update": u, "loss": 0.1} for u in range(1, 11))], 10, DONE)
    curves = [idle, run(1, [0.5] * 10), run(2, [0.6] * 10)]
    stopped = {i for i, step in halving(curves, HALVING, EM).items() if step.decision}
    assert stopped == {1}
    assert below_median(idle, [run(i, [0.95] * 10) for i in (1, 2, 3)], median_rule(), EM) is None


def test_seeds_are_judged_together():
    """A setting goes on with all its seeds, by their mean."""
    lucky = [run(0, [0.9] * 10, setting="a"), run(1, [0.1] * 10, setting="a")]
    steady = [run(2, [0.6] * 10, setting="b"), run(3, [0.6] * 10, setting="b")]
    steps = halving([*lucky, *steady], HALVING, EM)
    assert {i for i, step in steps.items() if step.decision} == {0, 1}


def test_runs_of_different_length_meet_at_the_same_share():
    """30% of twenty updates is six."""
    steps = halving([run(0, [0.1] * 10), run(1, [0.2] * 20)], HALVING, EM)
    assert steps[0].until == 3
    assert steps[1].until == 20


def test_the_update_of_a_rung_has_no_rounding_dust():
    """0.1 + 0.2 is 0.3: three of ten updates, not four."""
    curves = [run(0, [0.1] * 10), run(1, [0.2] * 10)]
    rule = StopRule("halving", warmup=0.1 + 0.2, health=())
    assert halving(curves, rule, EM)[0].until == 3


def rung_by_rung(table, shares, total):
    """Halving once more, on a table of values [run][update - 1]: the runs out at each rung."""
    alive, out = list(range(len(table))), {}
    for share in shares:
        at = math.ceil(round(share * total, 9))
        scores = np.array([table[i][at - 1] for i in alive])
        last = np.sort(scores)[::-1][max(1, len(alive) // 2) - 1]
        out |= {i: at for i, score in zip(alive, scores, strict=True) if score < last}
        alive = [i for i in alive if i not in out]
    return out


TABLES = st.integers(1, 9).flatmap(
    lambda n: st.lists(
        st.lists(st.integers(0, 6), min_size=10, max_size=10), min_size=n, max_size=n
    )
)


@settings(max_examples=100, deadline=None)
@given(TABLES, st.sampled_from([0.1, 0.3, 0.5]))
def test_halving_drops_whom_brute_force_drops(table, warmup):
    """Against numpy's sort at each rung."""
    rule = StopRule("halving", warmup=warmup, health=())
    steps = halving([run(i, row) for i, row in enumerate(table)], rule, EM)
    dropped = {i: step.until for i, step in steps.items() if step.decision}
    assert dropped == rung_by_rung(table, rule.rungs, 10)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_a_sweep_played_step_by_step_ends_as_the_replay_says(table, rng):
    """Runs advance in any order up to where they may; decisions never change behind them."""
    rows = [[value / 10 for value in row] for row in table]
    curves = [run(i, [], total=10, state=RunState.PAUSED) for i in range(len(rows))]
    made = 0
    while True:
        steps = halving(curves, HALVING, EM)
        ahead = [c.run for c in curves if c.update < steps[c.run].until]
        if not ahead:
            break
        chosen = rng.choice(ahead)
        curves[chosen] = run(chosen, rows[chosen][: curves[chosen].update + 1], total=10,
                             state=RunState.PAUSED)  # fmt: skip
        made += 1
    assert {c.run: c.update for c in curves} == {run: c.until for run, c in steps.items()}
    replayed = replay([run(i, row) for i, row in enumerate(rows)], HALVING, EM)
    assert made == replayed.updates - replayed.saved
    assert {d.run for d in replayed.stopped} == {r for r, c in steps.items() if c.decision}


def test_the_reduction_of_the_objective_counts_at_a_rung_too():
    """The best so far against the last value."""
    peaked, steady = run(0, [0.9, 0.1, 0.1] + [0.1] * 7), run(1, [0.5] * 10)
    by_last = halving([peaked, steady], HALVING, EM)
    by_best = halving([peaked, steady], HALVING, Objective("em", "max", "best"))
    assert (by_last[0].decision is not None, by_best[1].decision is not None) == (True, True)
