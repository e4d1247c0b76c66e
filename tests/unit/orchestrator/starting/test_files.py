"""What `init` writes: a spec that a submit takes, and rewards that do what they say."""

import json
import tomllib

import pytest

from orchestrator.cli import main
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import read_spec
from orchestrator.starting.files import ROWS, Answers, texts
from orchestrator.starting.night import Night
from orchestrator.worker.probe import ProbeResult
from tests.sweep_kit import write_lines


def rewards(tmp_path):
    """The functions of the reward file that is written."""
    answers = Answers("builtin/tiny", None, "question", "answer", "number")
    names = {}
    exec(texts(answers, tmp_path)["reward.py"], names)
    return names


def test_the_number_reward_prefers_what_is_near(tmp_path):
    """Right, off by one, off by four, and none: by hand."""
    number = rewards(tmp_path)["number"]
    tries = ["so 1,072", "<answer>1073</answer>", "1076.", "no idea"]
    assert number(tries, ["1072"] * 4) == [1.0, 0.25, 0.1, -0.5]


def test_the_format_reward_counts_tags(tmp_path):
    """A fifth for each tag that stands once, and one for an answer that comes last."""
    score = rewards(tmp_path)["format"]
    whole = "<reasoning>a</reasoning><answer>b</answer>"
    found = score([whole, f"{whole} and more", "b", "<answer><answer></answer>"])
    assert found == pytest.approx([1.0, 0.8, 0.0, 0.4])


def test_the_own_reward_is_a_beginning(tmp_path):
    """It finds the answer, whatever its case, and likes it short."""
    own = rewards(tmp_path)["own"]
    assert own(["It is Paris.", "London"], ["paris", "paris"]) == pytest.approx([0.9988, -0.0006])


@pytest.mark.parametrize("model", ["builtin/tiny", "builtin/smollm2", "Qwen/Qwen2.5-0.5B-Instruct"])
def test_what_is_written_is_a_sweep_that_a_submit_takes(tmp_path, monkeypatch, capfd, model):
    """Three rates, two group sizes, two seeds; rows with other columns are named by them."""
    write_lines(tmp_path / "mine.jsonl", [{"problem": 'a "b"', "solution": "c"}] * 12)
    monkeypatch.chdir(tmp_path)
    words = ("--model", model, "--rows", "mine.jsonl", "--reward", "own", "--no-check")
    assert main(["init", "sub/my sweep", *words]) == 0
    said = capfd.readouterr()
    assert 'prompt, from problem: a "b"' in said.err
    assert said.out.splitlines()[0] == "sub/my sweep/sweep.toml"
    monkeypatch.chdir(tmp_path / "sub" / "my sweep")
    expansion = expand(read_spec(tmp_path / "sub" / "my sweep" / "sweep.toml"))
    assert (len(expansion.settings), expansion.spec.seeds) == (6, (0, 1))
    fixed = expansion.spec.fixed
    assert fixed["dataset"] == "../../mine.jsonl"
    assert (fixed["prompt_key"], fixed["answer_key"]) == ("problem", "solution")
    assert (fixed["model_name"], fixed["rewards"]) == (model, ["reward.py:own"])
    assert main(["submit", "sweep.toml", "--dry-run"]) == 0


def test_without_rows_some_are_written(tmp_path):
    """Sums with their right answers, the same each time."""
    answers = Answers("builtin/tiny", None, "question", "answer", "number")
    rows = [json.loads(line) for line in texts(answers, tmp_path)[ROWS].splitlines()]
    assert len(rows) == 48
    for row in rows:
        a, b = (
            int(word.strip("?")) for word in row["question"].removeprefix("What is ").split("+")
        )
        assert int(row["answer"]) == a + b


def test_rows_are_found_from_a_folder_behind_a_link(tmp_path):
    """Such as /tmp of a Mac: what is above a link is not what `..` leads to."""
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "short").symlink_to(tmp_path / "real" / "deep")
    rows = tmp_path / "rows.jsonl"
    write_lines(rows, [{"question": "a", "answer": "b"}])
    folder = tmp_path / "short" / "x"
    answers = Answers("builtin/tiny", rows, "question", "answer", "number")
    named = tomllib.loads(texts(answers, folder)["sweep.toml"])["set"]["dataset"]
    folder.mkdir()
    assert (folder / named).resolve() == rows


def test_nothing_is_overwritten(tmp_path, monkeypatch, capfd):
    """One file that is there, and none is written."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reward.py").write_text("mine")
    assert main(["init", "--no-check"]) == 2
    assert "reward.py: is there already" in capfd.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["reward.py"]


def test_a_column_that_nobody_can_guess_must_be_named(tmp_path, monkeypatch, capfd):
    """Without a terminal nobody can be asked."""
    monkeypatch.chdir(tmp_path)
    write_lines(tmp_path / "a.jsonl", [{"x": "a", "y": "b"}])
    assert main(["init", "new", "--rows", "a.jsonl", "--no-check"]) == 2
    assert "It has x, y; say --prompt-key" in capfd.readouterr().err
    words = ("--rows", "a.jsonl", "--prompt-key", "x", "--answer-key", "z", "--no-check")
    assert main(["init", "new", *words]) == 2
    assert "no such column" in capfd.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_night_is_said_in_runs():
    """12 runs of 100 updates at 10 s each, and 20 s of loading: 3 h 24 min; 100 runs do not fit."""
    probe = ProbeResult(None, 5_000_000_000, 10.0, 30.0, None)
    assert (
        Night(12, 100, probe)
        .text()
        .endswith(
            "12 runs of 100 updates are about 3h 24m without evaluations: done within a night"
        )
    )
    # 8 h / 1020 s.
    assert "a night of 8 hours does about 28 runs" in Night(100, 100, probe).text()
