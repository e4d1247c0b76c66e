"""What is true now about runs and sweeps: progress, and time that is left."""

from dataclasses import replace

import pytest

from orchestrator.results.training_log import read_curve
from orchestrator.run import (
    Progress,
    RunState,
)
from orchestrator.views.overview import overview, progress_of
from tests.view_kit import RUN, SWEEP, logged, status_of


def test_a_curve_leaves_out_training_rows_and_torn_lines(tmp_path):
    """Held-out exact match only; a line that is being written is not there yet."""
    run = logged(
        tmp_path,
        {"update": 0, "em": 0.25, "split": "test", "n": 8},
        {"update": 1, "reward_mean": 0.5},
        {"update": 1, "em": 0.9, "split": "train", "n": 8},
        {"update": 2, "em": 0.5, "split": "test", "n": 8},
        torn='[1]\nnonsense\n{"update": 3, "em": 0.7',
    )
    assert read_curve(run.folder, "em") == [(0, 0.25), (2, 0.5)]
    assert read_curve(run.folder, "reward_mean") == [(1, 0.5)]
    assert read_curve(tmp_path / "none", "em") == []


def test_a_running_run_is_read_from_its_log_and_an_ended_one_from_the_record(tmp_path):
    """What was recorded at the end stays true when the folder is gone."""
    run = logged(tmp_path, {"update": 3, "reward_mean": 0.5})
    assert progress_of(replace(run, state=RunState.RUNNING)).update == 3
    assert progress_of(run) == Progress(10, 10, {"em": 0.5})
    resumed = replace(RUN, state=RunState.RUNNING)
    assert progress_of(resumed).update == 10


def test_a_sweep_waits_for_those_before_it():
    """The second sweep is done when both are; one that is held takes no time and has none."""
    queued = {"state": RunState.QUEUED, "update": None, "updates_total": None, "wall_s": 0.0}
    queued["attempt"] = 0
    first = replace(SWEEP, id=1, counts={RunState.QUEUED: 1})
    second = replace(SWEEP, id=2, counts={RunState.QUEUED: 2})
    held = replace(second, id=3, paused=True)
    runs = {
        1: [RUN, replace(RUN, id=2, **queued)],
        2: [replace(RUN, id=i, **queued) for i in (3, 4)] + [replace(RUN, id=5, wall_s=30.0)],
        3: [replace(RUN, id=6, **queued)],
    }
    facts = [status_of(sweep, runs[sweep.id]) for sweep in (first, second, held)]
    view = overview(facts)
    likely = {i: None if span is None else span.likely_s for i, span in view.left.items()}
    assert likely == {1: pytest.approx(20.0), 2: pytest.approx(80.0), 3: None}
    assert view.whole == view.left[2]
    # Looked at alone, a sweep still waits for the other one.
    alone = overview(facts[1:2], facts[:1])
    assert alone.left == {1: view.left[1], 2: view.left[2]}
    # What comes first goes first.
    urgent = overview([facts[0], replace(facts[1], sweep=replace(second, priority=1))])
    assert urgent.left[2].likely_s == pytest.approx(60.0)
    assert urgent.left[1].likely_s == pytest.approx(80.0)
