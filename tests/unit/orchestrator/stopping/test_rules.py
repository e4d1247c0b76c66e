"""Stop rules: health, median, halving, and the replay of what they would have done."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.run import Objective, RunState
from orchestrator.stopping.rules import (
    NAN,
    Curve,
    HealthRule,
    StopRule,
    halving,
    judge,
    parse_health,
    parse_share,
    replay,
    unhealthy,
)

METRICS = ("kl", "frac_reward_zero_std", "em", "loss", "entropy")
EM = Objective("em", "max", "last")
DONE = RunState.COMPLETED


def run(number, values, *, metric="em", every=1, total=None, state=DONE, setting=None, **more):
    """A run that logged values at updates every, 2 * every, ..."""
    lines = [{"update": every * (i + 1), metric: value} for i, value in enumerate(values)]
    total = every * len(values) if total is None else total
    return Curve(number, setting or f"s{number}", lines, total, state, **more)


# --- the grammar of health rules


@pytest.mark.parametrize(
    ("text", "expected", "again"),
    [
        ("nan", NAN, "nan for 3"),
        ("nan for 1", HealthRule("nan", "", 0.0, 1), "nan for 1"),
        ("kl > 0.5", HealthRule("kl", ">", 0.5, 1), "kl > 0.5"),
        ("kl > 0.123456789", HealthRule("kl", ">", 0.123456789, 1), None),
        (
            " frac_reward_zero_std==1 for 20 ",
            HealthRule("frac_reward_zero_std", "==", 1.0, 20),
            "frac_reward_zero_std == 1 for 20",
        ),
        ("reward/int <= -1e-3 for 5", HealthRule("reward/int", "<=", -1e-3, 5), None),
        ("entropy < .1", HealthRule("entropy", "<", 0.1, 1), None),
    ],
)
def test_a_health_rule_is_read_and_written_back(text, expected, again):
    """What is shown reads back as the same rule."""
    rule = parse_health(text, METRICS)
    assert rule == expected
    assert parse_health(str(rule), METRICS) == rule
    assert again in (None, str(rule))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "cannot be read; write nan, or METRIC"),
        ("kl", "cannot be read"),
        ("kl = 0.5", "cannot be read"),
        ("kl > 0.5 for", "cannot be read"),
        ("kl > 0.5 for -3", "cannot be read"),
        ("kl > 0.5 for 0", "must hold for at least 1 update"),
        ("kl > much", "much is no number"),
        ("kl > nan", "nan is no number"),
        ("kl > 1e999", "1e999 is no number"),
        ("kll > 0.5", "kll is no key of the training log; did you mean kl?"),
        ("nan > 3", "nan is no key"),
        ("kl > 0.5 and loss > 3", "cannot be read"),
    ],
)
def test_a_health_rule_that_cannot_be_read_says_why(text, words):
    """With the grammar, or the nearest metric."""
    with pytest.raises(SpecError) as caught:
        parse_health(text, METRICS)
    assert words in str(caught.value)
    assert str(caught.value).startswith(repr(text))


@given(st.text(max_size=30))
def test_any_text_is_a_rule_or_our_error(text):
    """Whatever stands in a spec."""
    try:
        rule = parse_health(text, METRICS)
    except SpecError:
        return
    assert parse_health(str(rule), METRICS) == rule


@pytest.mark.parametrize(("value", "expected"), [("30%", 0.3), (" 7.5 % ", 0.075), (0.5, 0.5)])
def test_a_share_is_a_percentage_or_a_number(value, expected):
    """Above 0 and below 1."""
    assert parse_share(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    "value", ["30", "0%", "100%", 0, 1, 1.5, True, None, "-3%", math.nan, "x%"]
)
def test_what_is_no_share_is_refused(value):
    """With what one looks like."""
    with pytest.raises(SpecError, match="must be a share above 0% and below 100%"):
        parse_share(value)


# --- health


def test_a_metric_past_its_bound_for_long_enough_stops_the_run():
    """The first moment at which it had held, with the values as evidence."""
    curve = run(7, [0.1, 0.6, 0.4, 0.7, 0.8, 0.9, 0.95], metric="kl")
    decision = unhealthy(curve, [parse_health("kl > 0.5 for 3", METRICS)])
    assert (decision.run, decision.update) == (7, 6)
    assert decision.reason == "health: kl > 0.5 for 3 (held for 3 updates, up to 6)"
    assert decision.evidence == "update 4: kl = 0.7; update 5: kl = 0.8; update 6: kl = 0.9"
    assert unhealthy(curve, [parse_health("kl > 0.5 for 5", METRICS)]) is None


def test_a_line_stands_for_the_updates_since_the_line_before():
    """With logging_steps = 10 two lines are twenty updates."""
    curve = run(1, [0.5, 1.0, 1.0, 1.0], metric="frac_reward_zero_std", every=10)
    rule = parse_health("frac_reward_zero_std == 1 for 20", METRICS)
    assert unhealthy(curve, [rule]).update == 30


def test_the_earliest_of_several_rules_decides():
    """Whatever their order."""
    lines = [{"update": u, "kl": u / 10, "entropy": 1 - u / 10} for u in range(1, 11)]
    curve = Curve(1, "s", lines, 10)
    rules = [parse_health(text, METRICS) for text in ("kl > 0.75", "entropy < 0.65")]
    for order in (rules, rules[::-1]):
        assert unhealthy(curve, order).reason.startswith("health: entropy < 0.65")


@pytest.mark.parametrize("bad", [None, math.nan, math.inf])
def test_nan_is_three_updates_in_a_row_without_a_finite_loss_or_gradient(bad):
    """The trainer skips such updates and logs null; one that passes does no harm."""
    ok = {"loss": 0.1, "grad_norm": 1.0}
    steps = [ok, {**ok, "loss": bad}, ok, {**ok, "grad_norm": bad}, {**ok, "loss": bad}]
    steps.append({"loss": bad, "grad_norm": bad})
    lines = [{"update": u, **step} for u, step in enumerate(steps, start=1)]
    # An evaluation says nothing about the loss, and does not break the row.
    lines.insert(4, {"update": 4, "em": 0.5, "split": "test"})
    decision = unhealthy(Curve(1, "s", lines, 10), [NAN])
    assert decision.update == 6
    assert decision.evidence.endswith("update 6: loss = nan, grad_norm = nan")
    assert unhealthy(Curve(1, "s", lines[:-1], 10), [NAN]) is None


def test_a_missing_value_is_no_evidence():
    """null where nothing was measured breaks a row instead of counting."""
    curve = run(1, [0.9, None, 0.9, 0.9], metric="kl")
    assert unhealthy(curve, [parse_health("kl > 0.5 for 3", METRICS)]) is None


def test_only_held_out_evaluations_count():
    """Exact match on training rows is another thing under the same name."""
    lines = [{"update": u, "em": 0.0, "split": "train"} for u in (1, 2, 3)]
    assert unhealthy(Curve(1, "s", lines, 9), [parse_health("em < 0.1", METRICS)]) is None


@given(
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from([0.2, 0.7, None])), max_size=12),
    st.integers(1, 6),
)
def test_a_row_of_updates_is_found_where_brute_force_finds_it(steps, wanted):
    """Against all pairs of a first and a last line."""
    updates = np.cumsum([gap for gap, _ in steps]).tolist()
    values = [value for _, value in steps]
    lines = [{"update": u, "kl": v} for u, v in zip(updates, values, strict=True)]
    found = unhealthy(Curve(1, "s", lines, 99), [HealthRule("kl", ">", 0.5, wanted)])
    ends = [
        updates[j]
        for i in range(len(steps))
        for j in range(i, len(steps))
        if all(v == 0.7 for v in values[i : j + 1])
        and updates[j] - (updates[i - 1] if i else 0) >= wanted
    ]
    assert (found.update if found else None) == min(ends, default=None)


# --- median


def median_rule(**more):
    return StopRule("median", health=(), **more)


def test_a_run_below_the_median_of_its_peers_is_stopped():
    """Its best value so far against theirs at the same update; four others, by hand."""
    peers = [run(i, [0.1, 0.2, 0.3, last]) for i, last in enumerate([0.4, 0.5, 0.6, 0.7])]
    peers[3] = run(3, [0.3, 0.4, 0.5, 0.7])
    curve = run(9, [0.1, 0.25, 0.2], total=4, state=RunState.RUNNING)
    decision = judge(curve, peers, median_rule(), EM)
    assert decision.update == 3
    assert decision.reason == "median: em 0.25 at best, 0.3 is the median of 4 runs at update 3"
    assert decision.evidence == "update 3: others 0.3, 0.3, 0.3, 0.5"


@pytest.mark.parametrize(
    ("values", "peers", "more"),
    [
        ([0.1], 4, {}),  # Within the warm-up: 1 of 4 updates.
        ([0.1, 0.3, 0.2], 4, {}),  # As good as the median once.
        ([0.1, 0.1, 0.1], 2, {}),  # Too few others.
        ([], 4, {}),  # Nothing evaluated yet.
        ([0.1, 0.1, 0.1], 4, {"warmup": 0.9}),
    ],
)
def test_without_evidence_a_run_goes_on(values, peers, more):
    """Warm-up, a good moment, too few peers, no value."""
    others = [run(i, [0.1, 0.2, 0.3, 0.4]) for i in range(peers)]
    curve = run(9, values, total=4, state=RunState.RUNNING)
    assert judge(curve, others, median_rule(**more), EM) is None


def test_only_runs_that_came_as_far_are_peers():
    """A run stopped earlier says nothing about now; one of another length is met at its share."""
    short = [run(i, [0.9, 0.9], total=4) for i in range(3)]
    curve = run(9, [0.1, 0.1, 0.1], total=4, state=RunState.RUNNING)
    assert judge(curve, short, median_rule(), EM) is None
    longer = [run(i, [0.0] * 5 + [0.2] * 3) for i in range(3)]  # At 3/4 of 8 updates: 0.2.
    assert judge(curve, longer, median_rule(), EM).reason.startswith(
        "median: em 0.1 at best, 0.2 is"
    )
    assert judge(run(9, [0.1, 0.1], total=4), longer, median_rule(), EM) is None


def test_goal_min_turns_the_median_round():
    """A loss above the median is the bad one."""
    peers = [run(i, [0.5, 0.4, 0.3]) for i in range(3)]
    assert judge(run(9, [0.5, 0.5]), peers, median_rule(), Objective("em", "min")) is not None
    assert judge(run(9, [0.5, 0.3]), peers, median_rule(), Objective("em", "min")) is None


def test_health_comes_before_the_median():
    """And works whatever the rule."""
    curve = Curve(1, "s", [{"update": u, "kl": 9.0, "em": 0.9} for u in (1, 2)], 4)
    for rule in ("none", "median", "halving"):
        stop = StopRule(rule, health=(HealthRule("kl", ">", 1.0, 2),))
        assert judge(curve, [], stop, EM).reason.startswith("health: kl > 1 for 2")


# --- halving


HALVING = StopRule("halving", warmup=0.3, health=())


def test_rungs_follow_the_warm_up():
    """Doubling from the share that is left alone."""
    assert StopRule(warmup=0.3).rungs == pytest.approx((0.3, 0.6))
    assert StopRule(warmup=0.1).rungs == pytest.approx((0.1, 0.2, 0.4, 0.8))
    assert StopRule(warmup=0.5).rungs == (0.5,)


def test_half_goes_on_at_each_rung():
    """Nine runs of ten updates: four go on at 3, two at 6, by hand."""
    curves = [run(i, [i / 10] * 10) for i in range(9)]
    courses = halving(curves, HALVING, EM)
    ends = {i: courses[i].until for i in range(9)}
    assert ends == {0: 3, 1: 3, 2: 3, 3: 3, 4: 3, 5: 6, 6: 6, 7: 10, 8: 10}
    assert {i for i in range(9) if courses[i].decision} == {0, 1, 2, 3, 4, 5, 6}
    assert courses[4].decision.reason == (
        "halving: em 0.4 at 30% of the run; the best 4 of 9 settings have 0.5 or better"
    )
    assert courses[6].decision.evidence == "rung 2, update 6: 0.8, 0.7, 0.6, 0.5"


def test_nobody_is_judged_before_all_have_come_to_the_rung():
    """Those that have wait; a failed run is not waited for."""
    curves = [
        run(0, [0.1, 0.1, 0.1], total=10, state=RunState.PAUSED),
        run(1, [0.5, 0.5, 0.5], total=10, state=RunState.PAUSED),
        run(2, [0.9], total=10, state=RunState.RUNNING),
    ]
    courses = halving(curves, HALVING, EM)
    assert {(c.until, c.decision) for c in courses.values()} == {(3, None)}
    failed = [*curves[:2], replace(curves[2], state=RunState.FAILED)]
    courses = halving(failed, HALVING, EM)
    assert courses[0].decision is not None
    assert (courses[1].until, courses[1].decision) == (6, None)


def test_ties_and_missing_values_keep_a_run():
    """A sweep in which all score 0 has nothing to go by; nor has a run without an evaluation."""
    level = [run(i, [0.0] * 10) for i in range(6)]
    assert not any(course.decision for course in halving(level, HALVING, EM).values())
    silent = [*level[:2], run(2, [0.5] * 10), run(3, [None] * 10)]
    stopped = {i for i, course in halving(silent, HALVING, EM).items() if course.decision}
    assert stopped == {0, 1}


def test_an_evaluation_before_training_is_no_evidence():
    """It is the same model in every run, whatever the setting."""
    first = {"update": 0, "em": 0.9, "split": "test"}
    idle = Curve(0, "s0", [first, *({"update": u, "loss": 0.1} for u in range(1, 11))], 10, DONE)
    curves = [idle, run(1, [0.5] * 10), run(2, [0.6] * 10)]
    stopped = {i for i, course in halving(curves, HALVING, EM).items() if course.decision}
    assert stopped == {1}
    assert judge(idle, [run(i, [0.95] * 10) for i in (1, 2, 3)], median_rule(), EM) is None


def test_seeds_are_judged_together():
    """A setting goes on with all its seeds, by their mean."""
    lucky = [run(0, [0.9] * 10, setting="a"), run(1, [0.1] * 10, setting="a")]
    steady = [run(2, [0.6] * 10, setting="b"), run(3, [0.6] * 10, setting="b")]
    courses = halving([*lucky, *steady], HALVING, EM)
    assert {i for i, course in courses.items() if course.decision} == {0, 1}


def test_runs_of_different_length_meet_at_the_same_share():
    """30% of twenty updates is six."""
    courses = halving([run(0, [0.1] * 10), run(1, [0.2] * 20)], HALVING, EM)
    assert courses[0].until == 3
    assert courses[1].until == 20


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
    courses = halving([run(i, row) for i, row in enumerate(table)], rule, EM)
    dropped = {i: course.until for i, course in courses.items() if course.decision}
    assert dropped == rung_by_rung(table, rule.rungs, 10)


@settings(max_examples=60, deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_a_sweep_played_step_by_step_ends_as_the_replay_says(table, rng):
    """Runs advance in any order up to where they may; decisions never change behind them."""
    rows = [[value / 10 for value in row] for row in table]
    curves = [run(i, [], total=10, state=RunState.PAUSED) for i in range(len(rows))]
    made = 0
    while True:
        courses = halving(curves, HALVING, EM)
        ahead = [c.run for c in curves if c.update < courses[c.run].until]
        if not ahead:
            break
        chosen = rng.choice(ahead)
        curves[chosen] = run(chosen, rows[chosen][: curves[chosen].update + 1], total=10,
                             state=RunState.PAUSED)  # fmt: skip
        made += 1
    assert {c.run: c.update for c in curves} == {run: c.until for run, c in courses.items()}
    replayed = replay([run(i, row) for i, row in enumerate(rows)], HALVING, EM)
    assert made == replayed.updates - replayed.saved
    assert {d.run for d in replayed.stopped} == {r for r, c in courses.items() if c.decision}


# --- replay


def test_a_replay_says_what_would_have_been_saved():
    """Nine aligned runs of ten updates: 15 + 12 + 20 of 90 updates, by hand."""
    curves = [run(i, [i / 10] * 10, wall_s=100.0) for i in range(9)]
    found = replay(curves, HALVING, EM)
    assert (found.updates, found.saved) == (90, 5 * 7 + 2 * 4)
    assert found.share_saved == pytest.approx(43 / 90)
    assert (found.wall_s, found.saved_s) == (900.0, pytest.approx(430.0))
    assert (found.winner, found.chosen, found.lost) == ("s8", "s8", 0.0)
    assert not found.winner_killed
    assert [d.run for d in found.stopped] == [0, 1, 2, 3, 4, 5, 6]


def test_a_replay_says_where_the_winner_would_have_died():
    """A late starter is behind at the first rung."""
    curves = [run(i, [0.2 + i / 100] * 10) for i in range(4)]
    curves.append(run(9, [0.1] * 5 + [0.9] * 5))
    found = replay(curves, HALVING, EM)
    assert (found.winner, found.chosen) == ("s9", "s3")
    assert found.winner_killed
    assert found.lost == pytest.approx(0.9 - 0.23)


def test_the_median_is_replayed_in_the_order_of_the_sweep():
    """The first three have too few peers; then each meets those before it, and none after it."""
    curves = [run(i, [v] * 10) for i, v in enumerate([0.5, 0.5, 0.5, 0.1, 0.9, 0.2])]
    found = replay(curves, median_rule(), EM)
    assert [(d.run, d.update) for d in found.stopped] == [(3, 3), (5, 3)]
    assert replay(curves[::-1], median_rule(), EM).saved == 0


def test_a_stopped_run_is_seen_by_the_others_only_as_far_as_it_came():
    """Its later values were never logged in the sweep that is replayed."""
    low = [run(i, [0.5] * 10) for i in range(3)]
    late = run(3, [0.1] * 3 + [0.99] * 7)  # Stopped at 3.
    last = run(4, [0.5] * 10)
    found = replay([*low, late, last], median_rule(), EM)
    assert [d.run for d in found.stopped] == [3]
    assert found.winner == "s3"
    assert found.winner_killed


def test_health_is_replayed_with_every_rule():
    """A run that fell ill before a rung is not judged at it."""
    ill = Curve(0, "s0", [{"update": u, "em": 0.9, "kl": float(u)} for u in range(1, 11)], 10, DONE)
    curves = [ill, *(run(i, [i / 10] * 10) for i in (1, 2))]
    for rule, stopped in (("none", {0: 2}), ("median", {0: 2}), ("halving", {0: 2, 1: 3})):
        stop = StopRule(rule, health=(HealthRule("kl", ">", 1.0, 1),))
        found = replay(curves, stop, EM)
        assert {d.run: d.update for d in found.stopped} == stopped
        assert found.saved == sum(10 - update for update in stopped.values())


def test_a_winner_that_ties_with_the_chosen_one_is_no_loss():
    """Stopping one of two equal settings costs nothing."""
    curves = [run(i, [0.1] * 5 + [0.5] * 5) for i in (0, 1)] + [run(2, [0.2] * 5 + [0.5] * 5)]
    found = replay(curves, HALVING, EM)
    assert len(found.stopped) == 2
    assert (found.lost, found.winner_killed) == (0.0, False)


def test_failed_runs_win_nothing_and_an_empty_sweep_saves_nothing():
    """The winner is a setting with completed runs."""
    curves = [run(0, [0.9] * 5, total=10, state=RunState.FAILED), run(1, [0.1] * 10)]
    assert replay(curves, HALVING, EM).winner == "s1"
    empty = replay([], HALVING, EM)
    assert (empty.winner, empty.share_saved, empty.winner_killed) == (None, 0.0, False)


def test_the_reduction_of_the_objective_counts_at_a_rung_too():
    """The best so far against the last value."""
    peaked, steady = run(0, [0.9, 0.1, 0.1] + [0.1] * 7), run(1, [0.5] * 10)
    by_last = halving([peaked, steady], HALVING, EM)
    by_best = halving([peaked, steady], HALVING, Objective("em", "max", "best"))
    assert (by_last[0].decision is not None, by_best[1].decision is not None) == (True, True)
