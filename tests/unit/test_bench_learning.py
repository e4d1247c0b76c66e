"""The time-to-score benchmark counts right: what is reached when, and what of runs that do not."""

import math
import re

import pytest

from benchmarks._learning import tables, tasks, three_digits
from benchmarks._learning.reached import (
    Reached,
    median,
    reached,
    restricted_mean,
    times_as_fast,
)
from grpo_core.config import resolve_config


def point(score, cpu_s):
    return {"score": score, "cpu_s": cpu_s, "wall_s": 2 * cpu_s, "tokens": 100 * cpu_s}


def done(cpu_s, is_censored=False):
    return Reached(cpu_s, 2 * cpu_s, 100 * cpu_s, is_censored)


def test_a_score_is_reached_on_the_line_between_two_evaluations():
    """From 0.2 to 0.6 in 4 s: 0.5 lies at three quarters, after 2 + 3 s."""
    points = [point(0.1, 0), point(0.2, 2), point(0.6, 6), point(0.4, 9)]
    found = reached(points, 0.5)
    assert (found.cpu_s, found.wall_s, found.tokens) == pytest.approx((5, 10, 500))
    assert not found.is_censored


def test_a_run_that_never_reaches_it_counts_until_it_was_given_up():
    """And is known as one of those."""
    assert reached([point(0.1, 0), point(0.4, 7)], 0.5) == done(7, is_censored=True)


def test_the_median_is_unknown_where_it_falls_among_those_that_did_not():
    """However early they were given up: all that is known is that they take longer."""
    given_up = [done(1, is_censored=True), done(2, is_censored=True)]
    assert median([done(5), done(9), done(7), *given_up], "cpu_s") == 9
    assert median([done(5), done(9), *given_up], "cpu_s") is None
    assert median([done(5), *given_up], "cpu_s") is None
    assert restricted_mean([done(6), *given_up], "tokens") == 300


def test_a_ratio_is_the_geometric_mean_over_seeds_with_students_interval():
    """Ratios 1, 2 and 4: logs 0, 1, 2 of 2; t(2) = 4.303, standard error 1 / sqrt(3)."""
    slow = {seed: done(8) for seed in range(4)}
    fast = {0: done(8), 1: done(4), 2: done(2)}
    ratio = times_as_fast(slow, fast, "cpu_s")
    assert (ratio.times, ratio.seeds) == (pytest.approx(2), 3)
    off = 4.3027 / math.sqrt(3)
    assert math.log2(ratio.high) == pytest.approx(1 + off, abs=1e-3)
    assert math.log2(ratio.low) == pytest.approx(1 - off, abs=1e-3)
    assert not ratio.wins and not ratio.loses
    steady = {seed: done(4 + 0.1 * seed) for seed in range(4)}
    assert times_as_fast(slow, steady, "cpu_s").wins
    assert times_as_fast(steady, slow, "cpu_s").loses
    assert times_as_fast(slow, {7: done(1)}, "cpu_s") is None


def test_a_contender_stands_beside_the_plain_settings():
    """Twice as fast with both seeds, too few for an interval; one run never reaches the score."""
    task = tasks.TASKS[0]

    def run(contender, seed, *points):
        return {"task": task.name, "contender": contender, "seed": seed, "points": points}

    seconds = {tasks.PLAIN: 6, "refill": 3}
    found = [run(n, s, point(0, 0), point(0.6, t)) for n, t in seconds.items() for s in (0, 1)]
    found.insert(0, run("all together", 7, point(0, 0), point(0.5, 30)))
    assert tables.table(found, task, 0.6).splitlines()[2:] == [
        "| plain | 2 of 2 | 6 | 12 | 600 | 6 |  |  |",
        "| refill | 2 of 2 | 3 | 6 | 300 | 3 | 2.00 | 2.00 |",
        "| all together | 0 of 1 | not reached | not reached | not reached | 30 |  |  |",
    ]


@pytest.mark.parametrize("task", tasks.TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("name", tasks.CONTENDERS)
def test_every_contender_is_a_configuration_that_trains(tmp_path, task, name):
    """Only its own fields differ from the plain one's; as many prompts lie between two looks."""
    sets = tasks.overrides(task.config(tmp_path, tasks.CONTENDERS[name]))
    cfg = resolve_config(str(tasks.CONFIG), sets, strict=True)
    plain = resolve_config(str(tasks.CONFIG), tasks.overrides(task.config(tmp_path, {})))
    apart = {n for n, value in vars(cfg).items() if getattr(plain, n) != value}
    own = {"learning_rate" if n == tasks.RATE else n for n in tasks.CONTENDERS[name]}
    assert apart - {"eval_steps"} == own
    assert cfg.eval_steps * cfg.batch_size == plain.eval_steps * plain.batch_size


def test_rows_of_three_digits_are_right_and_held_out_ones_apart():
    """Each answer is the sum of the question's own numbers; a quarter of the rows has no carry."""
    splits = three_digits.rows()
    for row in splits["train"] + splits["test"]:
        a, b = map(int, re.findall(r"\d+", row["question"]))
        assert row["answer"] == f"#### {a + b}"
        assert 200 <= a + b < 1000
    questions = [{row["question"] for row in rows} for rows in splits.values()]
    assert not questions[0] & questions[1]


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(123, 456, 579), (199, 202, 391), (650, 170, 720)]
)
def test_the_habit_takes_each_column_by_itself(a, b, expected):
    """9 + 2 leaves 1, 9 + 0 nine, 5 + 7 two."""
    assert three_digits.by_columns(a, b) == expected
