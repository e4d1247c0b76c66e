"""Reading a run's progress while its trainer writes."""

import json
import os

import pytest

from orchestrator.results.series import RunSeries
from orchestrator.results.training_log import (
    ProgressReader,
    interval_of,
    read_curve,
    read_curves,
    read_progress,
    read_result,
    result_identity,
    value_before,
)
from orchestrator.run import Progress


def write(folder, *lines, mode="w"):
    with open(folder / "training_log.jsonl", mode) as log:
        log.write("".join(json.dumps(line) + "\n" for line in lines))


def test_folder_without_a_log_is_no_progress(tmp_path):
    """A run that has not begun, or has no folder yet, is nothing, not an error."""
    assert read_progress(tmp_path) == read_progress(tmp_path / "none") == Progress()


def test_last_value_of_every_key_and_em_of_the_test_split(tmp_path):
    """Evaluations on training rows do not hide the held-out exact match."""
    write(
        tmp_path,
        {"update": 1, "loss": 3.0, "reward_mean": 0.1},
        {"update": 1, "em": 0.25, "split": "test", "n": 8},
        {"update": 2, "loss": 2.0},
        {"update": 2, "em": 0.75, "split": "train", "n": 4},
    )
    progress = read_progress(tmp_path)
    assert progress.update == 2
    assert progress.metrics == {
        "update": 2, "loss": 2.0, "reward_mean": 0.1, "em": 0.25, "split": "test", "n": 8,
    }  # fmt: skip


def test_torn_last_line_waits_for_its_end(tmp_path):
    """Half a line is not read, and is read whole once it is."""
    write(tmp_path, {"update": 1, "loss": 1.0})
    with open(tmp_path / "training_log.jsonl", "a") as log:
        log.write('{"update": 2, "lo')
    reader = ProgressReader(tmp_path)
    assert reader.read().update == 1
    with open(tmp_path / "training_log.jsonl", "a") as log:
        log.write('ss": 0.5}\n')
    assert reader.read().metrics["loss"] == 0.5


def test_lines_that_are_no_objects_are_passed_over(tmp_path):
    """A log that somebody else wrote into does not break the view."""
    (tmp_path / "training_log.jsonl").write_bytes(b'\xff\xfe\n[1]\n"x"\n{"update": 4}\n')
    assert read_progress(tmp_path).update == 4


def test_log_cut_at_a_checkpoint_is_read_anew(tmp_path):
    """A trainer that resumes cuts its log: what was cut is forgotten, also when it grew again."""
    write(tmp_path, *({"update": u, "loss": float(u)} for u in (1, 2, 3)))
    reader = ProgressReader(tmp_path)
    assert reader.read().update == 3
    beside = tmp_path / "beside"
    beside.write_text('{"update": 1, "loss": 1.0}\n')
    os.replace(beside, tmp_path / "training_log.jsonl")
    assert (reader.read().update, reader.read().metrics["loss"]) == (1, 1.0)
    write(tmp_path, {"update": 1, "a": 1}, {"update": 2, "b": 20}, {"update": 5, "c": 3000000})
    assert reader.read() == read_progress(tmp_path)


def test_reader_reads_on_where_it_stopped(tmp_path):
    """Later looks add to earlier ones."""
    reader = ProgressReader(tmp_path)
    write(tmp_path, {"update": 1, "loss": 1.0, "kl": 0.1})
    reader.read()
    write(tmp_path, {"update": 2, "loss": 0.5}, mode="a")
    assert reader.read().metrics == {"update": 2, "loss": 0.5, "kl": 0.1}


def test_pace_is_seconds_an_update_with_evaluations(tmp_path):
    """(1 + 2 + 1 + 2 + 4) s over two updates; rates are no durations."""
    write(
        tmp_path,
        {"update": 1, "rollout_s": 1.0, "update_s": 2.0, "tokens_per_s": 500.0},
        {"update": 2, "rollout_s": 1.0, "update_s": 2.0, "tokens_per_s": 500.0},
        {"update": 2, "em": 0.5, "split": "test", "eval_s": 4.0},
    )
    assert read_progress(tmp_path).s_per_update == 5.0


def test_total_comes_from_the_log(tmp_path):
    """The number of updates, once the trainer says it."""
    write(tmp_path, {"update": 0, "em": 0.5, "split": "test"})
    assert read_progress(tmp_path).updates_total is None
    write(tmp_path, {"update": 1, "updates_total": 30})
    assert read_progress(tmp_path).updates_total == 30


def test_numbers_that_json_cannot_say_are_unknown(tmp_path):
    """NaN in a log becomes null, never invalid JSON further on."""
    (tmp_path / "training_log.jsonl").write_text('{"update": 1, "loss": NaN, "kl": Infinity}\n')
    assert read_progress(tmp_path).metrics == {"update": 1, "loss": None, "kl": None}


def test_a_number_too_large_to_compare_is_no_number(tmp_path):
    """An integer of 400 digits is JSON; it ended whoever read the log."""
    write(tmp_path, {"update": 1, "em": 10**400, "update_s": 10**400}, {"update": 2, "em": 0.5})
    assert read_curve(tmp_path, "em") == [(2, 0.5)]
    assert read_progress(tmp_path).s_per_update is None


def test_result_is_told_from_a_later_one(tmp_path):
    """A replaced result.json has another identity; a missing one has none."""
    assert result_identity(tmp_path) is None
    assert read_result(tmp_path) is None
    (tmp_path / "result.json").write_text('{"status": "failed"}')
    first = result_identity(tmp_path)
    (tmp_path / "new").write_text('{"status": "completed"}')
    os.replace(tmp_path / "new", tmp_path / "result.json")
    assert result_identity(tmp_path) not in (first, None)
    assert read_result(tmp_path) == {"status": "completed"}


def test_curve_is_of_held_out_rows_and_finite(tmp_path):
    """What a sweep is ranked by: no training rows, no NaN, no torn line."""
    write(
        tmp_path,
        {"update": 0, "em": 0.2, "split": "test"},
        {"update": 1, "loss": 3.0},
        {"update": 1, "em": 0.9, "split": "train"},
        {"update": 2, "em": float("nan"), "split": "test"},
        {"update": 2, "em": 1, "split": "test"},
    )
    with open(tmp_path / "training_log.jsonl", "a") as log:
        log.write('{"update": 3, "em": 0.7}')
    assert read_curve(tmp_path, "em") == [(0, 0.2), (2, 1.0)]
    assert read_curve(tmp_path, "loss") == [(1, 3.0)]
    assert read_curve(tmp_path / "none", "em") == []


def test_several_curves_come_from_one_reading(tmp_path):
    """Each metric has its own updates; one that is not logged has none."""
    write(
        tmp_path,
        {"update": 0, "em": 0.2, "split": "test"},
        {"update": 1, "kl": 0.5, "reward_mean": 1},
        {"update": 2, "kl": None, "reward_mean": 2},
    )
    curves = read_curves(tmp_path, ["kl", "em", "reward_mean", "entropy"])
    assert curves == {
        "kl": [(1, 0.5)], "em": [(0, 0.2)], "reward_mean": [(1, 1.0), (2, 2.0)], "entropy": [],
    }  # fmt: skip
    assert set(read_curves(tmp_path / "none", ["kl"])) == {"kl"}


@pytest.mark.parametrize("key", ["update", "updates_total"])
def test_a_count_beyond_64_bits_is_another_programs(tmp_path, key):
    """Neither the queue's column nor a curve can hold it: the line is left out."""
    write(tmp_path, {"update": 1, "em": 0.5}, {"update": 2, "em": 0.7, key: 2**63})
    assert read_progress(tmp_path).update == 1
    series = RunSeries(tmp_path)
    series.refresh()
    assert series.since("em", 0).shape()["x"] == [1.0]


@pytest.mark.parametrize(
    ("logged", "wanted"),
    [([0.25, 1], (0.25, 1.0)), ([None, None], None), ([0.5], None), ("0.5 1", None), (None, None)],
)
def test_a_logged_interval_is_two_numbers(logged, wanted):
    """Anything else is none; a run whose rewards are all missing logs nulls."""
    assert interval_of(logged) == wanted


def test_what_was_measured_before_training_stands_at_the_top_of_the_log(tmp_path):
    """Of held-out rows; a run that measured first after an update has none, as one without log."""
    before = [{"update": 0, "em": 0.9, "split": "train"}, {"update": 0, "em": 0.2, "split": "test"}]
    write(tmp_path, *before, {"update": 1, "reward_mean": 1})
    assert value_before(tmp_path, "em") == 0.2
    assert value_before(tmp_path, "eval_reward") is None
    write(tmp_path, {"update": 1, "em": 0.5, "split": "test"})
    assert value_before(tmp_path, "em") is None
    assert value_before(tmp_path / "none", "em") is None


def test_a_series_of_a_long_log_keeps_its_ends_its_time_and_what_is_new(tmp_path):
    """5,000 updates of half a second, in few points; the newest lines as they are."""
    write(tmp_path, *({"update": n, "loss": float(n), "update_s": 0.5} for n in range(1, 5001)))
    series = RunSeries(tmp_path)
    series.refresh()
    points = series.points("loss")
    assert len(points.x) <= 256
    assert points.x == points.y  # The mean of a straight line is its middle.
    assert points.t[-1] == pytest.approx(points.x[-1] / 2, abs=5)
    assert series.since("loss", 4998).shape() == {
        "x": [4999.0, 5000.0], "y": [4999.0, 5000.0], "t": [2499.5, 2500.0],
    }  # fmt: skip
    assert series.has_since(4998)
    assert not series.has_since(4000)


def test_a_copy_of_a_series_stays_as_it_was(tmp_path):
    """Another thread draws it, and the next look at the log may come meanwhile."""
    series = RunSeries(tmp_path)
    series.take([{"update": 1, "loss": 0.5, "update_s": 2.0}])
    (bins, clock), (curves, whole) = series.copy("loss"), series.snapshot()
    series.take([{"update": 2, "loss": 0.25, "update_s": 2.0}])
    assert ([*bins.numbers], clock.at(2)) == ([0], 2.0)
    assert ([*curves["loss"].numbers], whole.at(2)) == ([0], 2.0)
    assert series.points("loss").shape() == {"x": [1.0, 2.0], "y": [0.5, 0.25], "t": [2.0, 4.0]}
