"""A whole run on the tiny model, in a child process: its files, its figures, its verdict."""

import json
import math

import mlx.core as mx
import pytest

from tests.trainer_kit import (
    UPDATES,
    complete,
    log_of,
    reproducible_log,
    result_of,
    train,
    weights,
)

TRAIN_KEYS = {
    "update", "batch_step", "lr", "loss", "grad_norm", "policy_reward", "kl", "reward_mean",
    "reward_std", "completion_length", "truncated_frac", "frac_reward_zero_std", "entropy",
    "clip_frac", "tokens_per_s", "rollout_s", "update_s", "peak_bytes",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One completed run that the tests here look at."""
    folder = tmp_path_factory.mktemp("run") / "out"
    done = complete(folder)
    return folder, done


def test_log_holds_each_update_once_with_the_names_of_the_design(run):
    """Keys word for word; one line an update, counted from 1."""
    lines = [line for line in log_of(run[0]) if "split" not in line]
    assert [line["update"] for line in lines] == list(range(1, UPDATES + 1))
    assert all(line.keys() >= TRAIN_KEYS for line in lines)
    names = {key for key in lines[0] if key.startswith("reward/")}
    assert names == {f"reward/{n}" for n in ("correctness", "int", "strict_format")} | {
        "reward/soft_format", "reward/xmlcount"
    }  # fmt: skip
    # 10 rows in micro-steps of 2, 2 to an update: 4, 4 and 2 rows, twice.
    assert [line["batch_step"] for line in lines] == [2, 4, 5, 7, 9, 10]
    assert [line["epoch"] for line in lines] == pytest.approx([n / 3 for n in range(1, 7)])
    tokens = [line["num_tokens"] for line in lines]
    assert tokens == sorted(tokens)
    assert tokens[-1] == result_of(run[0])["tokens"]


def test_evaluations_are_at_start_on_cadence_and_at_end(run):
    """Held-out rows every 3 batch steps (crossed at 4, 7, 9), training rows every 4 updates."""
    lines = [line for line in log_of(run[0]) if "split" in line]
    at = {
        split: [ln["update"] for ln in lines if ln["split"] == split] for split in ("test", "train")
    }
    assert at == {"test": [0, 2, 4, 5, 6], "train": [0, 4, 6]}
    assert {(line["split"], line["n"]) for line in lines} == {("test", 8), ("train", 6)}
    assert {line["updates_total"] for line in lines} == {UPDATES}
    for line in lines:
        low, high = line["ci95"]
        assert 0 <= low <= line["em"] <= high <= 1


def test_logged_rate_follows_the_schedule(run):
    """Cosine by hand: 6 updates, 1 of warm-up, peak 1e-3."""
    rates = [line["lr"] for line in log_of(run[0]) if "lr" in line]
    wanted = [1e-3 * (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert rates == pytest.approx(wanted)


def test_result_is_the_verdict(run):
    """Status, figures of held-out rows, counters; `final` is the last evaluation."""
    folder, _ = run
    result = result_of(folder)
    assert (result["status"], result["exit_code"], result["reason"]) == ("completed", 0, "")
    assert result["updates"] == UPDATES
    em = [line["em"] for line in log_of(folder) if line.get("split") == "test"]
    assert result["final"]["em"] == em[-1]
    assert result["best"]["em"] == max(em)
    assert result["tokens"] > 0
    assert result["wall_s"] > 0
    assert result["peak_bytes"] > 0
    assert result["device"] == "cpu"
    config = json.loads((folder / "config.resolved.json").read_text())
    assert result["config_hash"] == config["hash"]
    assert config["learning_rate"] == 1e-3
    assert {"mlx", "mlx-lm", "python"} <= config["versions"].keys()


def test_folder_holds_what_the_design_says_and_no_more(run):
    """The newest two checkpoints, perhaps the best; no half-made thing."""
    names = {path.name for path in run[0].iterdir()}
    checkpoints = {name for name in names if name.startswith("checkpoint-")}
    assert names - checkpoints == {
        ".lock", "config.resolved.json", "training_log.jsonl", "samples.jsonl", "result.json",
        "final",
    }  # fmt: skip
    assert {"checkpoint-4", "checkpoint-6"} <= checkpoints
    best = result_of(run[0])["best"]["update"]
    assert checkpoints - {"checkpoint-4", "checkpoint-6"} <= {f"checkpoint-{best}"}


def test_adapters_have_moved(run):
    """lora_b begins at 0: after training it does not stand there."""
    moved = [a for name, a in weights(run[0] / "final").items() if name.endswith("lora_b")]
    assert moved
    assert all(mx.any(a != 0).item() for a in moved)


def test_samples_are_kept_with_each_line(run):
    """Two completions an update and two answers an evaluation of the same held-out rows."""
    lines = [json.loads(line) for line in (run[0] / "samples.jsonl").read_text().splitlines()]
    drawn = [line for line in lines if "split" not in line]
    assert [line["update"] for line in drawn] == [u for u in range(1, UPDATES + 1) for _ in (0, 1)]
    assert all(line["prompt"] and "reward" in line and "answer" in line for line in lines)
    held_out = [line for line in lines if "split" in line]
    assert [line["update"] for line in held_out] == [u for u in (0, 2, 4, 5, 6) for _ in (0, 1)]
    assert len({line["prompt"] for line in held_out}) == 2
    assert not {line["prompt"] for line in held_out} & {line["prompt"] for line in drawn}


def test_progress_is_plain_lines(run):
    """One line an update and an evaluation; no control characters in a pipe."""
    lines = run[1].stderr.splitlines()
    assert sum(line.startswith("update ") for line in lines) == UPDATES
    assert sum(line.startswith("eval ") for line in lines) == 8
    assert "\x1b" not in run[1].stderr
    assert "\r" not in run[1].stderr
    assert run[1].stdout == ""


def test_completed_folder_is_not_trained_again(run):
    """Exit 0, it says so, and no file is touched."""
    folder, _ = run
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    done = complete(folder)
    assert "is completed" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_another_seed_draws_otherwise_from_the_same_rows(run, tmp_path):
    """The first evaluation is the same, the first update is not."""
    complete(tmp_path / "other", seed=1, num_epochs=1, eval_every_updates=0)
    first, update = reproducible_log(tmp_path / "other")[:2]
    mine = reproducible_log(run[0])
    assert first == mine[0] | {"updates_total": 3}
    assert update["update"] == 1
    assert update["reward_mean"] != mine[2]["reward_mean"]


def test_logging_steps_thins_the_log_and_nothing_else(run, tmp_path):
    """Every fourth update and the last; the weights are those of the full log."""
    complete(tmp_path / "thin", logging_steps=4)
    updates = [line["update"] for line in log_of(tmp_path / "thin") if "split" not in line]
    assert updates == [4, 6]
    a, b = weights(run[0] / "final"), weights(tmp_path / "thin" / "final")
    assert all(mx.array_equal(a[name], b[name]).item() for name in a)


def test_switched_off_files_are_not_made(tmp_path):
    """log_jsonl=false, log_completions=0, evaluation and checkpoints off."""
    folder = tmp_path / "bare"
    complete(
        folder,
        log_jsonl=False,
        log_completions=0,
        eval_steps=0,
        eval_every_updates=0,
        save_steps=0,
        num_epochs=1,
    )
    names = {path.name for path in folder.iterdir()}
    assert names == {".lock", "config.resolved.json", "result.json", "final"}
    assert "em" not in result_of(folder)["final"]


def test_faulty_config_is_one_message_and_exit_2(tmp_path):
    """All faults at once, no traceback, nothing written."""
    done = train(tmp_path / "out", num_generations=1, temperature=0.0)
    assert done.returncode == 2
    assert "num_generations = 1" in done.stderr
    assert "temperature = 0.0" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
