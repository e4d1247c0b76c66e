"""Ranking and comparison of settings, against numbers worked out by hand."""

import pytest

from orchestrator.results.leaderboard import (
    best_over_time,
    by_parameter,
    first_against_second,
    ranking,
)
from orchestrator.results.objective import Score, differing_keys
from orchestrator.run import Objective
from tests.records import a_done_run


def score(value, run_id=1, **overrides):
    return Score(a_done_run(id=run_id, overrides=overrides), value)


def seeded(value, seed, **overrides):
    return Score(a_done_run(seed=seed, overrides=overrides), value)


def test_the_best_over_time_counts_the_time_of_all_runs_and_the_results_of_those_that_have_one():
    """In the order of their ends: a failed run takes 20 s, a result of an earlier sweep none."""
    ends = [f"2026-01-01T00:00:0{n}Z" for n in range(5)]
    failed = a_done_run(id=1, ended=ends[1], wall_s=20.0)
    first, shared, late = (
        Score(a_done_run(id=2, ended=ends[2], wall_s=30.0), 0.4),
        Score(a_done_run(id=3, ended=ends[3], wall_s=0.0, attempt=0), 0.6),
        Score(a_done_run(id=4, ended=ends[4], wall_s=10.0), 0.5),
    )
    waiting = a_done_run(id=5, ended=None)
    runs = [late.run, waiting, shared.run, failed, first.run]
    points = best_over_time(runs, [late, first, shared], Objective())
    assert points == [(50.0, 0.4), (50.0, 0.6), (60.0, 0.6)]


def test_settings_are_ranked_by_their_mean_over_seeds():
    """A lucky seed does not win; equal means share a rank."""
    scores = [
        score(0.9, 1, lr=1),
        score(0.1, 2, lr=1),
        score(0.6, 3, lr=2),
        score(0.8, 4, lr=2),
        score(0.5, 5, lr=3),
    ]
    rows = ranking(scores, Objective())
    assert [(row.rank, row.params, row.n) for row in rows] == [
        (1, {"lr": 2}, 2),
        (2, {"lr": 1}, 2),
        (2, {"lr": 3}, 1),
    ]
    assert [row.mean for row in rows] == pytest.approx([0.7, 0.5, 0.5])
    assert [s.run.id for s in rows[0].scores] == [3, 4]
    assert [row.params for row in ranking(scores, Objective(goal="min"))][-1] == {"lr": 2}


def test_the_interquartile_mean_does_not_follow_one_lucky_seed():
    """Of eight values the outer two on each side are left out: by hand 1.5 against 3."""
    lucky = [score(v, i, lr=1) for i, v in enumerate([0, 0, 1, 1, 2, 2, 40, 50])]
    steady = [score(3.0, i, lr=2) for i in range(8)]
    assert ranking([*lucky, *steady], Objective())[0].params == {"lr": 1}
    rows = ranking([*lucky, *steady], Objective(), "iqm")
    assert [(row.params, row.mean) for row in rows] == [({"lr": 2}, 3.0), ({"lr": 1}, 1.5)]


def test_one_run_has_no_interval():
    """And nothing can be said about which of two single runs is better."""
    rows = ranking([score(0.9, 1, lr=1), score(0.1, 2, lr=2)], Objective())
    assert [row.ci95 for row in rows] == [None, None]
    assert first_against_second(rows, Objective()).verdict == "n=1, no interval"
    assert first_against_second(rows[:1], Objective()) is None


@pytest.mark.parametrize(
    ("second", "verdict", "probability"),
    [
        ([0.1, 0.11, 0.12], "first", 1.0),
        # The first wins 6 of 9 meetings: 0.5 beats all, 0.4 beats two, 0.3 beats one.
        ([0.25, 0.35, 0.45], "not distinguishable", 6 / 9),
    ],
)
def test_the_first_beats_the_second_or_cannot_be_told_apart(second, verdict, probability):
    """The share of meetings that the first wins, and the verdict of the t test."""
    first = [score(v, i, lr=1) for i, v in enumerate([0.3, 0.4, 0.5])]
    others = [score(v, 9 + i, lr=2) for i, v in enumerate(second)]
    found = first_against_second(ranking([*first, *others], Objective()), Objective())
    assert (found.verdict, found.probability) == (verdict, pytest.approx(probability))


def test_best_and_compare_say_the_same_about_the_same_two_settings():
    """Paired or not changes p, so it is decided in one place: one question has one answer."""
    scores = [
        seeded(value, seed, lr=lr)
        for lr, values in ((1e-4, (0.60, 0.61, 0.66)), (1e-5, (0.50, 0.55, 0.51)))
        for seed, value in enumerate(values)
    ]
    duel = first_against_second(ranking(scores, Objective()), Objective())
    _, level = by_parameter(scores, "lr", None, Objective())
    assert duel == level.against
    assert duel.paired
    # Differences 0.10, 0.06, 0.15: t = 3.96914, and p = 1 - t / sqrt(t * t + 2) for two degrees.
    assert duel.p == pytest.approx(0.0580075, abs=1e-6)


def test_exact_match_is_not_said_to_reach_beyond_all_of_it():
    """0.8, 0.9 and 1.0 by Student's t are 0.65 to 1.15; a reward may be more than one."""
    scores = [seeded(value, seed) for seed, value in enumerate([0.8, 0.9, 1.0])]
    assert ranking(scores, Objective())[0].ci95 == pytest.approx((0.6515862, 1.0))
    _, high = ranking(scores, Objective(metric="reward_mean"))[0].ci95
    assert high == pytest.approx(1.1484138)


def test_levels_of_a_parameter_are_compared_among_runs_that_share_the_rest():
    """The rank differs a little in each pair, the rate a lot between them: pairing shows it."""
    scores = [
        seeded(value + better, seed, lr=lr, lora_rank=rank)
        for lr, value in ((1e-5, 0.1), (1e-4, 0.5), (1e-3, 0.9))
        for rank, better in ((4, 0.0), (8, 0.02))
        for seed in (0, 1)
    ]
    best, other = by_parameter(scores, "lora_rank", 16, Objective())
    assert (best.value, best.n, best.against) == (8, 6, None)
    assert best.mean == pytest.approx(0.52)
    assert (other.value, other.against.paired, other.against.meetings) == (4, True, 6)
    assert other.against.verdict == "first"
    assert other.against.difference == pytest.approx(0.02)
    assert [level.value for level in by_parameter(scores, "lr", None, Objective())] == [
        1e-3,
        1e-4,
        1e-5,
    ]


def test_a_parameter_that_a_run_does_not_set_has_the_value_of_the_base():
    """Settings without it stand with those that set it to the same."""
    scores = [score(0.1, 1), score(0.2, 2, lora_rank=16), score(0.9, 3, lora_rank=8)]
    levels = by_parameter(scores, "lora_rank", 16, Objective())
    assert [(level.value, level.n) for level in levels] == [(8, 1), (16, 2)]


def test_only_the_keys_that_differ_are_told():
    """A missing key differs from any value."""
    rows = [
        {"a": 1, "b": 2, "c": [1]},
        {"a": 1, "b": 3, "c": [1]},
        {"a": 1, "b": 3, "c": [1], "d": 0},
    ]
    assert differing_keys(rows) == ["b", "d"]
    assert differing_keys([]) == []


def test_what_most_settings_set_comes_first():
    """An explicit run, which is first, may set what no other does."""
    rows = [{"rewards": ["int"]}, {"lr": 1, "g": 2}, {"lr": 2, "g": 2}]
    assert differing_keys(rows) == ["lr", "g", "rewards"]
