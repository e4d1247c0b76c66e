"""Where two runs differ: settings, metrics, the first update and the first completion."""

import json

import pytest

from orchestrator.cli import main
from tests.queue_kit import runs
from tests.sweep_kit import add_sweep, finish_next, planned_run, sample, write_lines


@pytest.fixture
def two(tmp_path):
    """A run and another of twice its rate: alike up to update 2, apart from there on."""
    add_sweep(
        tmp_path,
        [planned_run(f"r{rate:g}", 7, {"learning_rate": rate}) for rate in (1e-4, 2e-4)],
    )

    def write(run, late):
        log = [
            {"update": 0, "em": 0.25, "split": "test", "n": 8, "eval_s": late},
            {"update": 1, "batch_step": late, "reward_mean": 1.0, "loss": 0.5, "update_s": late},
            {"update": 2, "reward_mean": 2.0, "loss": 0.5, "update_s": 3.0},
            {"update": 3, "reward_mean": 2.0 + late, "loss": 0.25, "update_s": 3.0},
            {"update": 3, "em": 0.5 * late, "split": "test", "n": 8},
        ]
        write_lines(run.folder / "training_log.jsonl", log)
        held_out = [{**sample(0, "dunno", prompt="8 * 8?"), "split": "test"}]
        drawn = [sample(1, "a", prompt="1 + 1?"), sample(2, "b", prompt="2 + 2?")]
        last = [sample(3, f"late {late}", reward=late, prompt="3 + 3?")]
        write_lines(run.folder / "samples.jsonl", [*held_out, *drawn, *last])

    for late in (1.0, 2.0):
        finish_next(write=lambda run, late=late: write(run, late))


def difference(capsys, *words):
    """What `show A B --json` says."""
    assert main(["show", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_settings_metrics_and_the_first_difference_are_told(two, capsys):
    """By hand; times may differ and are no difference."""
    found = difference(capsys, "1", "2")
    assert [run["id"] for run in found["runs"]] == [1, 2]
    assert found["settings"] == {"learning_rate": [1e-4, 2e-4]}
    assert found["metrics"]["em"] == [0.5, 1.0]
    assert found["metrics"]["loss"] == [0.25, 0.25]
    assert "batch_step" not in found["metrics"]
    assert found["log"] == {"update": 3, "metrics": ["reward_mean", "em"]}
    told = found["completion"]
    assert (told["update"], told["held_out"], told["same_prompt"]) == (3, False, True)
    assert [one["completion"] for one in told["samples"]] == ["late 1.0", "late 2.0"]
    assert [one["prompt"] for one in told["samples"]] == ["3 + 3?", "3 + 3?"]


def test_the_two_stand_beside_each_other_in_the_terminal(two, capsys):
    """One line a fact."""
    assert main(["show", "r0.0001", "2"]) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "run 1: r0.0001 (sweep s) completed"
    assert "learning_rate 1e-4 2e-4" in lines
    assert "em 50.0% 100.0% +50.0%" in lines
    assert "log differs from update 3 on: reward_mean, em" in lines
    assert "completion first differs at update 3, to a prompt of training" in lines
    assert lines[-4:] == ["1, reward 1.000:", "late 1.0", "2, reward 2.000:", "late 2.0"]


def test_other_prompts_are_told_where_no_answer_can_be_compared(two, capsys):
    """As runs of two seeds draw them."""
    other = runs()[1].folder / "samples.jsonl"
    lines = [sample(1, "a", prompt="9 + 9?"), sample(2, "b", prompt="8 + 8?")]
    write_lines(other, lines)
    told = difference(capsys, "1", "2")["completion"]
    assert (told["update"], told["same_prompt"]) == (1, False)
    assert [one["prompt"] for one in told["samples"]] == ["1 + 1?", "9 + 9?"]


def test_a_folder_that_is_gone_leaves_the_settings(two, capsys):
    """What cannot be read differs nowhere; the rest is told."""
    for file in runs()[1].folder.iterdir():
        file.unlink()
    found = difference(capsys, "1", "2")
    assert found["settings"] == {"learning_rate": [1e-4, 2e-4]}
    assert found["metrics"]["em"] == [0.5, None]
    assert (found["log"], found["completion"]) == (None, None)
    assert main(["show", "1", "2"]) == 0
    out = capsys.readouterr().out
    assert "nothing that both have logged" in out
    assert "none that both have kept differs" in out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["1", "r0.0001"], 2, "1 and r0.0001 are the same run: name two"),
        (["1", "9"], 3, "9"),
        (["1", "1-2"], 2, "1-2: 2 runs; name one of them: 1, 2"),
    ],
)
def test_bad_input_gets_one_message(two, capsys, words, code, message):
    """Exit codes as the contract says."""
    assert main(["show", *words]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
