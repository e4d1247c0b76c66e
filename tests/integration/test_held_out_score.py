"""A task without reference answers: scored by rewards, from a single run to a sweep's report."""

import json

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.run import Objective
from orchestrator.system.paths import home
from orchestrator.worker import worker
from tests.queue_kit import runs
from tests.trainer_kit import FAST, complete, log_of, result_of, train

# How many of a text's characters are digits: to be had without knowing any answer.
REWARDS = """
import pathlib

def digits(completions, **columns):
    return [sum(c.isdigit() for c in text) / 8 for text in completions]

def length(completions, **columns):
    return [float(len(text)) for text in completions]

def breaks(completions, **columns):
    calls = pathlib.Path(__file__).with_name("calls")
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    if len(calls.read_text()) == 7:
        raise ValueError("no idea")
    return [0.5 for _ in completions]

def against(completions, answers):
    return [0.0 for _ in completions]
"""
SHORT = {"num_epochs": 1, "eval_samples": 4, "eval_every_updates": 0, "max_new_tokens": 16}


@pytest.fixture
def fields(tmp_path):
    """The settings of a run over rows that have nothing but a prompt."""
    rows = [json.dumps({"prompt": f"What is {n} + {n}?"}) for n in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "score.py").write_text(REWARDS)
    return {
        **SHORT,
        "dataset": str(tmp_path / "rows.jsonl"),
        "answer_key": "",
        "rewards": [f"{tmp_path / 'score.py'}:digits"],
    }


def test_a_run_without_answers_is_scored_by_its_rewards(tmp_path, fields):
    """Logged with interval and by name, and what the best checkpoint is chosen by."""
    done = complete(tmp_path / "out", **fields)
    name = fields["rewards"][0]
    lines = [line for line in log_of(tmp_path / "out") if line.get("split") == "test"]
    assert len(lines) == 3
    for line in lines:
        assert "em" not in line
        assert line["eval_reward"] == line[f"eval_reward/{name}"]
        low, high = line["eval_reward_ci95"]
        assert low <= line["eval_reward"] <= high
    result = result_of(tmp_path / "out")
    scores = [line["eval_reward"] for line in lines]
    assert result["final"]["eval_reward"] == scores[-1]
    assert result["best"]["eval_reward"] == max(scores)
    assert "the prompt is column 'prompt'" in done.stderr
    assert "eval_reward" in done.stderr.splitlines()[-1]
    again = complete(tmp_path / "out", **fields)
    assert "eval_reward" in again.stderr


def test_held_out_rows_are_scored_by_rewards_of_their_own(tmp_path, fields):
    """Training is rewarded for digits, and what is reported is something else."""
    scorer = f"{tmp_path / 'score.py'}:length"
    complete(tmp_path / "out", **fields, eval_rewards=[scorer, "int"], eval_reward_weights=[2, 0])
    line = next(line for line in log_of(tmp_path / "out") if line.get("split") == "test")
    assert line["eval_reward"] == pytest.approx(2 * line[f"eval_reward/{scorer}"])
    assert "eval_reward/int" in line
    assert f"eval_reward/{fields['rewards'][0]}" not in line


def test_a_scorer_that_raises_ends_the_run_and_loses_nothing(tmp_path, fields):
    """In the second evaluation: what was trained up to it is in a checkpoint, and goes on."""
    fields |= {"eval_rewards": [f"{tmp_path / 'score.py'}:breaks"], "save_steps": 0}
    done = train(tmp_path / "out", **fields)
    assert done.returncode == 3
    assert "no idea" in done.stderr
    assert "on row" in done.stderr
    update = result_of(tmp_path / "out")["updates"]
    assert update > 0
    assert (tmp_path / "out" / f"checkpoint-{update}").is_dir()
    done = complete(tmp_path / "out", **fields)
    assert f"after update {update}" in done.stderr


@pytest.mark.parametrize("field", ["rewards", "eval_rewards"])
def test_a_plugin_that_wants_answers_is_refused_before_the_model_loads(tmp_path, fields, field):
    """With the parameter that rows cannot fill."""
    done = train(tmp_path / "out", **fields | {field: [f"{tmp_path / 'score.py'}:against"]})
    assert done.returncode == 3
    assert "has a parameter 'answers', but the columns and other names are prompt" in done.stderr
    assert result_of(tmp_path / "out")["updates"] == 0


def test_rows_that_nobody_evaluates_need_no_column(tmp_path, fields):
    """A reward's column that only the training rows have; evaluated, they are named."""
    rows = [json.dumps({"prompt": f"What is {n}?", "tests": "1"}) for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    (tmp_path / "held_out.jsonl").write_text('{"prompt": "What is 9?"}\n')
    (tmp_path / "score.py").write_text("def f(completions, tests): return [1.0 for _ in tests]\n")
    fields |= {
        "rewards": [f"{tmp_path / 'score.py'}:f"],
        "eval_dataset": str(tmp_path / "held_out.jsonl"),
    }
    complete(tmp_path / "out", **fields, eval_steps=0)
    done = train(tmp_path / "out2", **fields, eval_steps=1)
    assert done.returncode == 3
    assert "held-out rows: " in done.stderr and "eval_rewards names what" in done.stderr


def test_a_column_that_is_missing_is_a_fault_unless_it_is_said_to_be(tmp_path, fields):
    """A mistyped name must not cost the score."""
    del fields["answer_key"]
    done = train(tmp_path / "out", **fields)
    assert done.returncode == 3
    assert 'answer_key = "" says that there are no reference answers' in done.stderr


def test_a_sweep_without_answers_from_submit_to_report(tmp_path, fields, monkeypatch, capfd):
    """Objective, ranking, status, confirmation and report go by the held-out reward."""
    monkeypatch.chdir(tmp_path)
    settings = {**FAST, **fields}
    base = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (tmp_path / "base.toml").write_text(base)
    text = 'config = "base.toml"\n[params]\nlearning_rate = [1e-3, 1e-4]\n'
    (tmp_path / "bare.toml").write_text(text)
    assert main(["submit", "bare.toml"]) == 0
    assert worker.work(until_empty=True) == 0
    assert [run.state for run in runs()] == ["completed", "completed"]
    capfd.readouterr()
    assert main(["best", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["objective"] == "eval_reward"
    assert {run["value"] for row in told["rows"] for run in row["runs"]} == {
        result_of(run.folder)["final"]["eval_reward"] for run in runs()
    }
    assert main(["status"]) == 0
    assert "score" in capfd.readouterr().out
    assert main(["confirm", "bare", "--seeds", "7", "--top", "1"]) == 0
    with Store.open(home().db, readonly=True) as store:
        assert store.queries.sweep_of(runs()[-1]).objective == Objective("eval_reward")
    assert main(["report", "bare", "-o", "report.html"]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "held-out reward" in page.lower()
