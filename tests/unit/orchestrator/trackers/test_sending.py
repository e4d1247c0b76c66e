"""What tools get of a run: every point once, under their names, and how it ended."""

import json
import math
from dataclasses import replace

import pytest

from orchestrator.run import RunState
from orchestrator.trackers.sending import Sender
from orchestrator.trackers.tracked import PointReader, Tracked, metric_names
from tests.records import a_done_run, a_run, a_sweep
from tests.sweep_kit import write_lines
from tests.tracker_kit import Notebook

UPDATE = {"update": 1, "updates_total": 9, "batch_step": 4, "loss": 0.5, "rollout_s": 2.0}
EVALUATION = {"update": 1, "em": 0.25, "eval_reward": 1.5, "split": "test", "n": 20, "eval_s": 1.0}


def tracked(folder, state=RunState.RUNNING, **values):
    make = a_run if state is RunState.RUNNING else a_done_run
    values = {"cwd": str(folder), "output_dir": "out", "name": "a", **values}
    return Tracked.of(make(**{**values, "state": state}), a_sweep())


def log(folder, *lines):
    write_lines(folder / "out" / "training_log.jsonl", lines)


def test_measures_are_grouped_as_the_tools_expect():
    """Updates and rows of training are train/, held-out ones eval/; counters are no measures."""
    assert metric_names(UPDATE) == {"train/loss": 0.5, "train/rollout_s": 2.0}
    assert metric_names(EVALUATION) == {"eval/em": 0.25, "eval/reward": 1.5, "eval/s": 1.0}
    assert metric_names({"em": 1, "split": "train", "update": 3}) == {"train/em": 1.0}
    assert metric_names({"loss": 10**400, "ci95": [0, 1], "flag": True, "note": "x"}) == {}
    assert math.isnan(metric_names({"loss": math.nan})["train/loss"])


def test_an_update_and_its_evaluations_are_one_point_at_the_time_trained(tmp_path):
    """Two seconds of rollout and one of evaluation after the start, wherever they are read."""
    log(tmp_path, UPDATE, EVALUATION)
    run = tracked(tmp_path, RunState.COMPLETED)
    [point] = PointReader(run).read(ended=True)
    assert point.update == 1
    assert set(point.values) == {*metric_names(UPDATE), *metric_names(EVALUATION)}
    assert point.at == run.began + 3.0


def test_the_last_update_waits_until_nothing_more_can_belong_to_it(tmp_path):
    """An evaluation comes after its update; a tool takes a step only once."""
    log(tmp_path, UPDATE)
    reader = PointReader(tracked(tmp_path))
    assert reader.read(ended=False) == []
    log(tmp_path, UPDATE, EVALUATION, {"update": 2, "loss": 0.25})
    [point] = reader.read(ended=False)
    assert (point.update, point.values["eval/em"]) == (1, 0.25)
    assert [point.update for point in reader.read(ended=True)] == [2]


def test_sending_again_sends_only_what_is_new(tmp_path):
    """By the same sender and by a fresh one, while it trains and after its end."""
    book = Notebook()
    lines = [{"update": n, "loss": n / 10} for n in range(5)]
    log(tmp_path, *lines[:3])
    run = tracked(tmp_path)
    sender = Sender(book, run)
    assert [sender.send(run), sender.send(run)] == [2, 0]
    log(tmp_path, *lines)
    assert Sender(book, run).send(run) == 2
    done = tracked(tmp_path, RunState.COMPLETED)
    assert [Sender(book, done).send(done) for _ in range(2)] == [1, 0]
    assert sorted(book.points[run.key]) == [0, 1, 2, 3, 4]
    assert book.states == {run.key: "completed"}


def test_a_log_that_was_cut_at_a_checkpoint_is_not_sent_twice(tmp_path):
    """A trainer that resumes draws the same updates again."""
    book, run = Notebook(), tracked(tmp_path)
    log(tmp_path, *({"update": n, "loss": 1.0} for n in range(6)))
    sender = Sender(book, run)
    sender.send(run)
    log(tmp_path, *({"update": n, "loss": 1.0} for n in range(3)))
    sender.send(run)
    log(tmp_path, *({"update": n, "loss": 1.0} for n in range(8)))
    sender.send(run)
    assert sorted(book.points[run.key]) == list(range(7))


def test_a_run_without_a_log_is_sent_for_how_it_ended(tmp_path):
    """It failed before its first update: the tool shows it as failed, once."""
    book, run = Notebook(), tracked(tmp_path, RunState.FAILED)
    for _ in range(2):
        Sender(book, run).send(run)
    assert (book.states, book.points, book.begun) == ({run.key: "failed"}, {run.key: {}}, 1)


def test_a_new_end_is_sent_without_new_points(tmp_path):
    """It failed while it saved the result, and completed when it was tried again."""
    book = Notebook()
    log(tmp_path, UPDATE)
    failed = tracked(tmp_path, RunState.FAILED)
    Sender(book, failed).send(failed)
    done = tracked(tmp_path, RunState.COMPLETED)
    Sender(book, done).send(done)
    assert book.states == {done.key: "completed"}


def test_an_interrupted_run_is_closed_and_goes_on_later(tmp_path):
    """It is queued again: what belongs to its last update may still come."""
    book = Notebook()
    log(tmp_path, UPDATE, {"update": 2, "loss": 0.25})
    run = tracked(tmp_path)
    sender = Sender(book, run)
    sender.send(run)
    queued = replace(run, run=replace(run.run, state=RunState.QUEUED))
    assert sender.send(queued) == 0
    assert book.states == {run.key: "queued"}
    assert sorted(book.points[run.key]) == [1]


def test_the_config_is_what_the_trainer_resolved(tmp_path):
    """Before it has written that: what the sweep sets."""
    run = tracked(tmp_path, overrides={"learning_rate": 1e-5}, seed=3)
    config = run.config()
    assert (config["learning_rate"], config["seed"]) == (1e-5, 3)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "config.resolved.json").write_text(json.dumps({"learning_rate": 1e-5, "beta": 1}))
    config = run.config()
    assert (config["beta"], config["grpo_sweep"]["weights"]) == (1, str(folder / "final"))


@pytest.mark.parametrize("change", [{"id": 2}, {"created": "2026-01-02T00:00:00.000Z"}])
def test_runs_of_two_queues_have_different_keys(tmp_path, change):
    """And one run has the same key always, whatever becomes of it."""
    run = tracked(tmp_path)
    assert tracked(tmp_path, **change).key != run.key
    assert tracked(tmp_path, RunState.FAILED).key == run.key
