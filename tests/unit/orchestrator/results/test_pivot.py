"""The objective by swept parameters: means over all else, by hand."""

import io

import pytest
from rich.console import Console

from orchestrator.results.pivot import binned, cells
from orchestrator.run import Judged, Objective, RunState
from orchestrator.views.pivot import pivot_shape, pivot_table
from tests.records import a_run

COMPLETED, QUEUED = RunState.COMPLETED, RunState.QUEUED


def run(number, value, state=COMPLETED, seed=0, **overrides):
    return a_run(id=number, state=state, value=value, seed=seed, overrides=overrides)


RUNS = [
    run(1, 0.25, learning_rate=1e-4, num_generations=8),
    run(2, 0.75, learning_rate=1e-4, num_generations=8, seed=1),
    run(3, 0.75, learning_rate=1e-4, num_generations=16),
    run(4, 1.0, learning_rate=1e-5, num_generations=8),
    run(5, None, QUEUED, learning_rate=1e-5, num_generations=16),
    run(6, 0.125, RunState.FAILED, learning_rate=1e-5, num_generations=16),
]


def pivot(*keys, runs=RUNS, base=None, goal="max"):
    return cells(runs, keys, base or {}, Objective(goal=goal))


def drawn(*keys, **more):
    out = io.StringIO()
    Console(file=out, width=200).print(pivot_table(Objective(), keys, pivot(*keys, **more)))
    return [line.split() for line in out.getvalue().splitlines()]


def test_a_cell_is_the_mean_over_everything_else():
    """Over seeds and the other parameter; only completed runs count, the others are counted."""
    small, large = pivot("learning_rate")
    assert (small.values, small.mean, small.n) == ((1e-5,), 1.0, 1)
    assert (small.ci95, small.others) == (None, {QUEUED: 1, RunState.FAILED: 1})
    assert (large.values, large.n) == ((1e-4,), 3)
    assert large.mean == pytest.approx((0.25 + 0.75 + 0.75) / 3)
    # 7/12 -+ 4.303 * 0.2887 / sqrt(3), cut where exact match ends.
    assert large.ci95 == (0.0, 1.0)


def test_two_keys_make_a_cell_for_each_pair():
    """Rows in the order of the first key's values, then of the second's; numbers by size."""
    found = pivot("learning_rate", "num_generations")
    assert [(cell.values, cell.mean) for cell in found] == [
        ((1e-5, 8), 1.0), ((1e-5, 16), None), ((1e-4, 8), 0.5), ((1e-4, 16), 0.75)
    ]  # fmt: skip


def test_the_best_mean_is_marked_by_the_goal():
    """The largest, or the smallest; equal ones all; none while there is no result."""
    assert [cell.best for cell in pivot("learning_rate")] == [True, False]
    assert [cell.best for cell in pivot("learning_rate", goal="min")] == [False, True]
    assert [cell.best for cell in pivot("seed", runs=[RUNS[1], RUNS[2]])] == [True, True]
    assert not any(cell.best for cell in pivot("learning_rate", runs=RUNS[4:]))


def test_runs_that_leave_a_key_alone_have_the_base_value():
    """The base config says what it is for them."""
    runs = [run(1, 0.5, kl_coeff=0.1), run(2, 0.25)]
    found = pivot("kl_coeff", runs=runs, base={"kl_coeff": 0.0})
    assert [(cell.values[0], cell.mean) for cell in found] == [(0.0, 0.25), (0.1, 0.5)]


def test_the_interval_of_many_values_is_the_normal_one():
    """0 and 1 in turn, 400 of each: 0.5 +- 1.963 * 0.5003 / sqrt(800), at once."""
    runs = [run(i, float(i % 2), kl_coeff=0.1) for i in range(800)]
    low, high = pivot("kl_coeff", runs=runs)[0].ci95
    assert (low, high) == (pytest.approx(0.5 - 0.03472, abs=1e-5), pytest.approx(0.53472, abs=1e-5))


def test_the_table_has_a_row_for_each_value_and_a_column_for_each_of_the_second():
    """Where no run has a result stands what becomes of them; * marks the best."""
    assert drawn("learning_rate") == [
        ["learning_rate", "em", "n", "without", "a", "result"],
        ["1e-5", "100.0%", "*", "1", "1", "failed,", "1", "queued"],
        ["1e-4", "58.3%", "±", "58.3%", "3"],
    ]
    assert drawn("learning_rate", "num_generations") == [
        ["learning_rate", "num_generations", "8", "16"],
        ["1e-5", "100.0%", "*", "n=1", "1", "failed,", "1", "queued"],
        ["1e-4", "50.0%", "n=2", "75.0%", "n=1"],
    ]
    assert drawn("learning_rate", "seed")[1] == ["1e-5", "100.0%", "*", "n=1"]


def test_the_json_has_a_row_for_each_cell():
    """Values by key, runs by id."""
    shape = pivot_shape(Objective(), ["learning_rate"], pivot("learning_rate"))
    assert {key: shape[key] for key in ("objective", "goal", "by")} == {
        "objective": "em", "goal": "max", "by": ["learning_rate"],
    }  # fmt: skip
    assert shape["rows"][0] == {
        "values": {"learning_rate": 1e-5}, "n": 1, "mean": 1.0, "ci95": None, "best": True,
        "runs": [4], "others": {"queued": 1, "failed": 1},
    }  # fmt: skip


@pytest.mark.parametrize("judged", [False, True])
def test_very_many_numbers_are_put_into_bins(judged):
    """Forty draws make five rows of eight, by their ends; a list of values stays as it is."""
    runs = [a_run(id=i, overrides={"lr": 1.23456e-5 * i, "g": i % 2}) for i in range(1, 41)]
    if judged:
        runs = [Judged(r.id, r.state, r.seed, r.overrides, r.value) for r in runs]
    found = binned(runs, ["lr", "g"], {})
    names = [str(cell.values[0]) for cell in cells(found, ["lr"], {}, Objective())]
    assert names == ["1.23e-5 … 9.88e-5", "1.11e-4 … 1.98e-4", "2.1e-4 … 2.96e-4",
                     "3.09e-4 … 3.95e-4", "4.07e-4 … 4.94e-4"]  # fmt: skip
    assert {run.overrides["g"] for run in found} == {0, 1}
    assert binned(runs[:12], ["lr"], {}) == runs[:12]
