"""The commands with the real trainer on the embedded model: a sweep, single runs, real faults."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.spec.tables import METRICS
from orchestrator.system.paths import shipped
from tests.queue_kit import runs

TRAINING_S = 240

# Two updates of four prompts, and a look at eight held-out rows.
SMALL = {
    "max_train_samples": "8",
    "eval_samples": "8",
    "eval_steps": "100",
    "max_new_tokens": "16",
    "eval_max_new_tokens": "16",
}
SPEC = """
config = "tiny.toml"
[params]
learning_rate = [1e-4, 1e-3]
num_generations = [2, 4]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the tiny config, in which the process stands."""
    (tmp_path / "tiny.toml").write_text(shipped("configs/tiny.toml").read_text())
    (tmp_path / "s.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def sets(**values):
    return [
        word for key, value in {**SMALL, **values}.items() for word in ("--set", f"{key}={value}")
    ]


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", *words], capture_output=True, text=True, timeout=TRAINING_S
    )


def log_of(folder):
    """The training log without its measures of time and memory."""
    lines = (Path(folder) / "training_log.jsonl").read_text().splitlines()
    measures = ("_s", "_bytes")
    return [
        {key: value for key, value in json.loads(line).items() if not key.endswith(measures)}
        for line in lines
    ]


def test_a_grid_is_trained_to_its_ranking(folder, capfd):
    """Submit, work, look: four runs, each with its own overrides, state, metrics and command."""
    assert main(["submit", "s.toml", *sets()]) == 0
    assert main(["work", "--until-empty"]) == 0
    capfd.readouterr()
    assert main(["status", "--json"]) == 0
    status = json.loads(capfd.readouterr().out)
    assert [r["state"] for r in status["runs"]] == ["completed"] * 4
    assert [(r["update"], r["updates_total"]) for r in status["runs"]] == [(2, 2)] * 4
    assert status["sweeps"][0]["state"] == "completed"
    for told in status["runs"]:
        resolved = json.loads((Path(told["output_dir"]) / "config.resolved.json").read_text())
        assert {key: resolved[key] for key in told["overrides"]} == told["overrides"]
        assert resolved["run_name"] == told["name"]
        assert 0 <= told["metrics"]["em"] <= 1
        result = json.loads((Path(told["output_dir"]) / "result.json").read_text())
        assert (result["status"], result["exit_code"]) == ("completed", 0)
    assert {resolved["learning_rate"], resolved["num_generations"]} == {1e-3, 4}
    # What was checked at submit is what was trained.
    assert resolved["hash"] == runs()[-1].hash
    assert main(["best", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)["rows"]
    assert sorted(row["mean"] for row in rows) == sorted(r["metrics"]["em"] for r in status["runs"])


def test_a_single_run_is_what_mlx_grpo_makes_of_the_same_words(folder):
    """The same log but for times, in its own folder; and a finished folder is left alone."""
    words = ["--config", "tiny.toml", *sets(learning_rate="1e-4", seed="7")]
    ours = run("orchestrator", "run", *words, "--set", "output_dir=a")
    theirs = run("grpo_core", *words, "--set", "output_dir=b")
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    assert log_of("a") == log_of("b")
    assert any(line.get("split") == "test" for line in log_of("a"))
    # What a spec may name as its objective is what a trainer logs.
    lines = (folder / "a" / "training_log.jsonl").read_text().splitlines()
    assert set(METRICS) <= {key for line in lines for key in json.loads(line)}
    again = run("orchestrator", "run", *words, "--set", "output_dir=a")
    assert again.returncode == 0


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--config", "tiny.toml", "--set", "num_generations=1"], 2),
        (["--config", "tiny.toml", "--set", "learning_rat=1", "--strict"], 2),
    ],
)
def test_run_exits_as_the_trainer_does(folder, words, code):
    """Its own codes, one message, no traceback."""
    done = run("orchestrator", "run", *words)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_cannot_work_says_why(folder, capfd):
    """A model folder that never came: failed, with the trainer's message as evidence."""
    (folder / "s.toml").write_text('config = "tiny.toml"\n[set]\nmodel_name = "./nowhere"\n')
    assert main(["submit", "s.toml", "--later"]) == 0
    assert main(["work", "--until-empty"]) == 0
    assert main(["wait"]) == 1
    capfd.readouterr()
    assert main(["show", "1", "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert (shown["state"], shown["exit_code"]) == ("failed", 3)
    assert "nowhere" in shown["attempts"][0]["evidence"]
