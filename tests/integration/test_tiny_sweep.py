"""A shipped sweep, trained for real: halving on the embedded model, from submit to ranking."""

import json

import pytest

from orchestrator.cli import main
from orchestrator.system.paths import shipped
from orchestrator.worker import worker
from tests.queue_kit import attempts, runs, updates_logged


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, in which the process stands."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_halving_on_the_tiny_model_spends_less_and_ranks_what_is_left(folder, capfd):
    """Settings end at rungs, the best trains to its end over pauses, each update once."""
    small = ("max_train_samples=40", "eval_samples=8", "eval_steps=3")
    words = [word for item in small for word in ("--set", item)]
    assert main(["submit", str(shipped("sweeps/tiny_halving.toml")), *words]) == 0
    assert worker.work(until_empty=True) == 0
    found = runs()
    pruned = [run for run in found if run.state == "pruned"]
    finished = [run for run in found if run.state == "completed"]
    # Settings that tie at a rung go on together.
    assert len(pruned) + len(finished) == 4
    assert pruned and finished
    for run in finished:
        trained = [update for update in updates_logged(run) if update > 0]
        assert trained == list(range(1, 11))
        assert [a.outcome for a in attempts(run.id)] == ["held", "held", "completed"]
    for run in pruned:
        assert run.reason.startswith("halving: em ")
        assert run.update < 10
    capfd.readouterr()
    assert main(["best", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    ranked = [scored["id"] for row in told["rows"] for scored in row["runs"]]
    assert sorted(ranked) == [run.id for run in finished]
