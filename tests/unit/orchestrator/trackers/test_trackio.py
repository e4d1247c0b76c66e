"""Runs in trackio's local database, read back by trackio."""

import pytest

from orchestrator.cli import main
from orchestrator.run import Outcome, Verdict
from tests.queue_kit import runs
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_run

pytest.importorskip("trackio", reason="the extra `trackio` is not installed")

UPDATES = 4


@pytest.fixture
def storage(tmp_path, monkeypatch):
    """A completed and a failed run, one that waits; and trackio's reader of an empty folder."""
    import trackio.sqlite_storage as module

    monkeypatch.chdir(tmp_path)
    # trackio reads TRACKIO_DIR when it is imported.
    monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    rates = (1e-5, 1e-4, 1e-3)
    add_sweep(tmp_path, [planned_run(f"r{n}", n, {"lr": v}) for n, v in enumerate(rates)])
    finish_next(write=lambda run: write_run(run.folder, 0.9, UPDATES))
    finish_next(Outcome(Verdict.DIVERGED, "nan", "loss nan", 6))
    return module.SQLiteStorage


def test_a_run_has_its_curves_config_and_state_exported_once(storage, capfd):
    """A second export changes nothing, a third adds what is new."""
    assert main(["export", "s", "--trackio", "p"]) == 0
    assert "of 1 run sent, 2 with what was there" in capfd.readouterr().err
    assert sorted(storage.get_runs("p")) == ["s/r0", "s/r1"]
    rows = storage.get_logs("p", "s/r0")
    assert [row["step"] for row in rows if "train/loss" in row] == list(range(1, UPDATES + 1))
    assert [row["eval/em"] for row in rows if "eval/em" in row][-1] == runs()[0].metrics["em"]
    assert rows[-1]["state"] == "completed"
    config = storage.get_run_config("p", "s/r0")
    assert (config["lr"], config["_Group"]) == (1e-5, "s")
    assert "nan" in storage.get_logs("p", "s/r1")[-1]["reason"]

    main(["export", "s", "--trackio", "p"])
    assert "0 points of 0 runs sent" in capfd.readouterr().err
    assert storage.get_logs("p", "s/r0") == rows

    finish_next(write=lambda run: write_run(run.folder, 0.5, UPDATES))
    main(["export", "s", "--trackio", "p"])
    assert len(storage.get_logs("p", "s/r2")) == len(rows)
