"""`work --report-to`: a real worker, its trainers, and TensorBoard's event files beside them."""

import sys

import pytest

from tests.cli_kit import start
from tests.queue_kit import DEADLINE_S, runs, states, updates_logged


def test_what_runs_log_is_sent_while_they_train(folder, say):
    """Every update of the run, into the folder that was named where the worker was started."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    from tests.unit.orchestrator.trackers.test_tensorboard import scalars

    (folder / "one.toml").write_text('config = "base.toml"\n[params]\nlearning_rate = [1e-4]\n')
    assert say("submit", "one.toml")[0] == 0
    working = start("work", "--until-empty", "--report-to", "tensorboard=tb")
    _, err = working.communicate(timeout=DEADLINE_S)
    assert working.returncode == 0, err
    [run] = runs()
    assert str(run.state) == "completed"
    found = scalars(folder / "tb" / run.sweep / run.name)
    assert sorted(found["train/loss"]) == updates_logged(run)
    # The export afterwards finds nothing to add.
    again = say("export", "--tensorboard", "tb")[2]
    assert "0 points of 0 runs sent, 1 with what was there" in again


def test_a_missing_library_is_said_before_anything_is_trained(folder, say, monkeypatch):
    """Not in the night, when the first run logs."""
    say("submit", "lr.toml")
    monkeypatch.setitem(sys.modules, "wandb", None)
    for name in ("GRPO_SWEEP_REPORT_TO", "GRPO_SWEEP_REPORT_FROM"):
        monkeypatch.setenv(name, "")
    code, _, err = say("work", "--until-empty", "--report-to", "wandb")
    assert code == 2
    assert "pip install 'grpo-sweep[wandb]'" in err
    assert states() == ["queued"] * 4


def test_tools_of_the_environment_are_tried_before_a_worker_is_started(folder, say, monkeypatch):
    """As those of --report-to are: a worker in the background has nobody to tell."""
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("GRPO_SWEEP_REPORT_TO", "wandb")
    code, _, err = say("work", "--detach")
    assert (code, "started a worker" in err) == (2, False)
    assert "pip install 'grpo-sweep[wandb]'" in err


def test_tools_that_are_named_report_from_here(folder, say, monkeypatch):
    """Whatever folder an earlier command has left in the environment."""
    pytest.importorskip("tensorboardX", reason="the extra `tensorboard` is not installed")
    for name, value in (("TO", ""), ("FROM", str(folder / "gone"))):
        monkeypatch.setenv(f"GRPO_SWEEP_REPORT_{name}", value)
    assert say("work", "--until-empty", "--report-to", "tensorboard=tb")[0] == 0
