"""What people look at: status, its pivot, show, watch, and notices of a worker, as typed."""

import json

import pytest

from orchestrator import notices
from tests.sweep_kit import add_sweep, finished_sweep, planned_run

SETTINGS = [
    (gain, {"learning_rate": lr, "num_generations": g})
    for gain, lr, g in ((0.2, 1e-4, 2), (0.8, 1e-3, 2), (0.4, 1e-4, 8), (0.9, 1e-3, 8))
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which the commands are typed."""
    monkeypatch.chdir(tmp_path)
    # What --notify leaves in this process.
    monkeypatch.setenv(notices.ENV, "")
    monkeypatch.delenv(notices.ENV)
    return tmp_path


# --- status


def test_a_status_by_a_parameter_ranks_its_values(say, folder):
    """Rows by value, the best marked; with two, a table of both; the same as JSON."""
    finished_sweep(folder, SETTINGS, seeds=(0, 1))
    code, out, err = say("status", "--by", "learning_rate")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["learning_rate", "em", "n", "without", "a", "result"]
    assert [line[0] for line in lines[1:]] == ["1e-4", "1e-3"]
    assert "*" in lines[2]
    assert "* the best mean" in err
    both = say("status", "s", "--by", "learning_rate", "--by", "num_generations")[1].splitlines()
    assert both[0].split() == ["learning_rate", "num_generations", "2", "8"]
    assert both[2].rstrip().endswith("*  n=2")
    shape = json.loads(say("status", "--by", "num_generations", "--json")[1])
    assert [row["values"] for row in shape["rows"]] == [
        {"num_generations": 2}, {"num_generations": 8}
    ]  # fmt: skip
    assert [row["n"] for row in shape["rows"]] == [4, 4]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["learning_rat"], "--by learning_rat: no run of sweep s sets it; did you mean"),
        (["zzz"], "no run of sweep s sets it; it sets: learning_rate, num_generations, seed"),
        (["seed", "seed"], "name one or two parameters, each once"),
        (["seed", "learning_rate", "num_generations"], "name one or two parameters"),
    ],
)  # fmt: skip
def test_a_parameter_that_nobody_swept_is_a_usage_error(say, folder, args, said):
    """With the nearest name that there is."""
    finished_sweep(folder, SETTINGS)
    code, out, err = say("status", *(word for key in args for word in ("--by", key)))
    assert (code, out) == (2, "")
    assert said in err


def test_a_pivot_of_a_sweep_without_results_says_so(say, folder):
    """Nothing has run yet; and there may be no sweep at all."""
    assert say("status", "--by", "learning_rate")[0] == 3
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4})])
    code, out, err = say("status", "--by", "learning_rate")
    assert code == 0
    assert "1 queued" in out
    assert "sweep s has no result yet for em" in err
