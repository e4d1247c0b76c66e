"""What a run is worth and which setting it has, worked out by hand."""

import json
import sqlite3
from dataclasses import replace

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.report.gather import gather
from orchestrator.results.objective import completed_scores, reduce_curve, run_value, setting_key
from orchestrator.run import Objective, RunState
from orchestrator.system.paths import home
from orchestrator.worker.notices import best_text
from tests.records import a_done_run
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_lines


@pytest.mark.parametrize(
    ("reduce", "goal", "expected"),
    [
        ("last", "max", 2.0),
        ("best", "max", 5.0),
        ("best", "min", 1.0),
        ("last:2", "max", 1.5),
        ("last:3", "max", 8 / 3),
        ("last:99", "max", 2.75),
    ],
)
def test_a_curve_becomes_one_number(reduce, goal, expected):
    """By hand over 3, 5, 1, 2."""
    objective = Objective("em", goal, reduce)
    assert reduce_curve([3.0, 5.0, 1.0, 2.0], objective) == pytest.approx(expected)


def test_a_curve_without_finite_values_has_no_number():
    """NaN is never best, nor last."""
    assert reduce_curve([], Objective()) is None
    assert reduce_curve([float("nan")], Objective()) is None
    assert reduce_curve([1.0, float("nan")], Objective()) == 1.0
    assert reduce_curve([1.0, float("inf")], Objective(reduce="best")) == 1.0


def logged(folder, *values, **fields):
    """A completed run whose log holds these exact matches."""
    lines = [{"update": n, "em": value, "split": "test"} for n, value in enumerate(values)]
    write_lines(folder / "training_log.jsonl", lines)
    return a_done_run(cwd=str(folder), output_dir=".", **fields)


@pytest.mark.parametrize(
    ("reduce", "goal", "value"), [("last", "max", 0.2), ("best", "max", 0.3), ("best", "min", 0.1)]
)
def test_a_run_that_trains_is_worth_what_its_log_says(tmp_path, reduce, goal, value):
    """`best` looks at the whole curve, `last` at its end."""
    run = logged(tmp_path, 0.3, 0.1, 0.2, state=RunState.RUNNING)
    assert run_value(run, Objective("em", goal, reduce)) == value


def test_a_recorded_value_stands_whatever_the_log_says_later(tmp_path):
    """The search and `status` went by it."""
    assert run_value(logged(tmp_path, 0.9, value=0.5), Objective()) == 0.5


def test_a_running_run_is_worth_what_its_log_says_now(tmp_path):
    """What was recorded when it was interrupted is older."""
    run = logged(tmp_path, 0.9, value=0.5, state=RunState.RUNNING)
    assert run_value(run, Objective()) == 0.9


def test_a_run_that_trains_again_keeps_its_value_until_its_log_has_one():
    """The log of a run that goes on may have been cut."""
    run = a_done_run(value=0.5, metrics={"em": 0.9}, state=RunState.RUNNING)
    assert run_value(run, Objective()) == 0.5


def test_only_completed_runs_are_ranked():
    """What was stopped early cannot be compared with what ran to its end."""
    runs = [a_done_run(id=n, state=state, value=0.5) for n, state in enumerate(RunState)]
    found = completed_scores(runs, Objective())
    assert [(score.run.state, score.value) for score in found] == [("completed", 0.5)]


def test_a_setting_is_the_same_in_whatever_order_its_values_stand():
    """Values of other kinds or names make another."""
    key = setting_key({"learning_rate": 1e-5, "lora_rank": 8})
    assert setting_key({"lora_rank": 8, "learning_rate": 1e-5}) == key
    assert setting_key({"lora_rank": "8", "learning_rate": 1e-5}) != key
    assert setting_key({"lora_rank": 8}) != key


def test_best_report_export_pivot_and_notice_show_one_value(tmp_path, capsys):
    """The recorded one: the log was replaced after the run had ended."""
    add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    log = [{"update": 2, "em": 0.9, "split": "test"}]
    finish_next(value=0.5, write=lambda run: write_lines(run.folder / "training_log.jsonl", log))
    with Store.open(home().db, readonly=True) as store:
        sweep = store.queries.sweep("s")
        facts, runs = gather(store, sweep, home()), store.queries.runs(sweep.id)
    assert best_text(runs, sweep.objective) == "em 50.0% (n=1)"
    assert [row.mean for row in facts.rows] == [0.5]
    assert main(["best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["mean"] == 0.5
    assert main(["export", "--jsonl", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == 0.5
    assert main(["status", "--by", "lora_rank", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["mean"] == 0.5
    assert main(["best", "--history", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["points"][0]["best"] == 0.5


def test_all_show_no_value_where_none_was_recorded(tmp_path, capsys):
    """The log was written after the run had ended: `best` went by it, status and the view not."""
    add_sweep(tmp_path, [planned_run("a", 0, {"lora_rank": 8})])
    run = finish_next()
    write_lines(run.folder / "training_log.jsonl", [{"update": 2, "em": 0.9, "split": "test"}])
    with Store.open(home().db, readonly=True) as store:
        sweep = store.queries.sweep("s")
        assert store.status.best_run(sweep) is None
        assert best_text(store.queries.runs(sweep.id), sweep.objective) == ""
    with sqlite3.connect(home().db) as db:
        assert db.execute("SELECT * FROM leaderboard").fetchall() == []
    assert main(["best", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == []
    assert main(["export", "--jsonl", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] is None


def test_a_notice_counts_the_seeds_of_a_setting_together_however_its_values_are_ordered():
    """0.6 and 0.4 make 0.5, which 0.55 beats; taken apart, 0.6 would win."""
    one = a_done_run(value=0.6, overrides={"lora_rank": 8, "batch_size": 2})
    other = replace(one, value=0.4, overrides={"batch_size": 2, "lora_rank": 8})
    winner = replace(one, value=0.55, overrides={"lora_rank": 16, "batch_size": 2})
    assert best_text([one, other, winner], Objective()) == "lora_rank=16: em 55.0% (n=1)"
