"""Runs in MLflow's own store, a SQLite file, read back by its client."""

import pytest

from orchestrator.cli import main
from orchestrator.run import Outcome, Verdict
from tests.queue_kit import runs
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_run

mlflow = pytest.importorskip("mlflow", reason="the extra `mlflow` is not installed")

UPDATES = 60


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A completed and a failed run, one that waits; and the client of an empty store."""
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/m.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    rates = (1e-5, 1e-4, 1e-3)
    planned = [planned_run(f"r{n}", n, {"lr": v}, tags=("t",)) for n, v in enumerate(rates)]
    add_sweep(tmp_path, planned)
    finish_next(write=lambda run: write_run(run.folder, 0.9, UPDATES))
    finish_next(Outcome(Verdict.DIVERGED, "nan", "loss nan", 6))
    return mlflow.MlflowClient(uri)


def found(client):
    """The runs of the experiment, by name."""
    experiment = client.get_experiment_by_name("e")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_a_sweep_is_a_run_with_its_runs_below_exported_once(client, capfd):
    """Curves, parameters, status; a second export changes nothing, a third adds what is new."""
    assert main(["export", "s", "--mlflow", "e"]) == 0
    assert "of 1 run sent, 2 with what was there" in capfd.readouterr().err
    first = found(client)
    assert set(first) == {"s", "r0", "r1"}
    done = first["r0"]
    assert done.data.tags["mlflow.parentRunId"] == first["s"].info.run_id
    assert done.data.params["lr"] == "1e-05"
    assert (done.info.status, first["r1"].info.status) == ("FINISHED", "FAILED")
    assert "nan" in first["r1"].data.tags["reason"]
    curve = client.get_metric_history(done.info.run_id, "train/loss")
    assert [point.step for point in curve] == list(range(1, UPDATES + 1))
    assert curve[0].timestamp < curve[-1].timestamp
    assert done.data.metrics["eval/em"] == runs()[0].metrics["em"]
    assert done.data.metrics["objective"] == runs()[0].value

    main(["export", "s", "--mlflow", "e"])
    assert "0 points of 0 runs sent" in capfd.readouterr().err
    again = found(client)
    assert again.keys() == first.keys()
    assert client.get_metric_history(done.info.run_id, "train/loss") == curve

    finish_next(write=lambda run: write_run(run.folder, 0.5, UPDATES))
    main(["export", "s", "--mlflow", "e"])
    assert set(found(client)) == {"s", "r0", "r1", "r2"}
