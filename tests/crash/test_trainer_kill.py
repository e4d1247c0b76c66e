"""A run killed anywhere and started again is the run that was never killed, to the last bit."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainer_kit import (
    TIMEOUT_S,
    assert_equal_runs,
    command,
    complete,
    log_of,
    result_of,
    said,
    start,
    surroundings,
    wait_until,
)

KILLER = Path(__file__).parents[1] / "kill_at.py"

# Accumulation, epochs and both evaluations are in FAST; here the rest that a state must hold.
KINDS = {
    "lora": {},
    "dora": {"train_type": "dora", "num_iterations": 2, "lora_dropout": 0.1},
    "full": {"train_type": "full", "learning_rate": 1e-4, "kl_coeff": 0.05},
    "refill": {"zero_variance": "refill", "rewards": ["correctness"], "num_train_generations": 2},
    "passing over": {"flat_prompt_chance": 0.5, "rewards": ["correctness"], "num_epochs": 3},
    "early groups": {
        "early_group_size": 2,
        "rewards": ["correctness"],
        "zero_variance": "refill",
        "flat_prompt_chance": 0.5,
        "num_epochs": 2,
    },
    "moving reference": {
        **{"kl_coeff": 0.05, "sync_ref_model": True, "ref_model_sync_steps": 2},
        **{"repetition_penalty": 1.2, "rollout_is": "token_truncate"},
    },
    # 160 completions, of which 128 decode together: some come in as others end.
    "waiting": {"num_generations": 40, "batch_size": 4, "max_new_tokens": 32, "num_epochs": 1},
    "minibatches": {
        **{"steps_per_generation": 4, "num_iterations": 2, "batch_size": 1},
        "old_logprobs": "sampled",
    },
}
SHORT = {"num_epochs": 1, "eval_samples": 4, "eval_subset_size": 4, "max_new_tokens": 16}
LONG = sorted({*KINDS} - {"lora", "full"})


def fields(kind: str) -> dict:
    return SHORT | KINDS[kind]


def run_killed_at(n: str, folder: Path, **settings) -> subprocess.CompletedProcess:
    """A run that dies at its n-th touch of the disk."""
    args = command(folder, **settings)
    return subprocess.run(
        [sys.executable, "-P", str(KILLER), n, *args[args.index("--config") :]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=surroundings(folder),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Undisturbed runs by kind: folder, and how often each touched the disk."""
    known = {}

    def run(kind):
        if kind not in known:
            folder = tmp_path_factory.mktemp(kind) / "whole"
            done = run_killed_at("0", folder, **fields(kind))
            assert done.returncode == 0, done.stderr
            known[kind] = folder, int(done.stdout)
        return known[kind]

    return run


def storm(
    folder: Path, kind: str, touches: int, kills: int, draw: random.Random, first: int = 1
) -> None:
    """Kill a run at random touches from `first` on, each attempt at another; the last one lives."""
    for _ in range(kills):
        n = f"{draw.randint(first, touches)}{draw.choice(['', 'half'])}"
        done = run_killed_at(n, folder, **fields(kind))
        if done.returncode == 0:
            return
        assert done.returncode == -signal.SIGKILL, done.stderr
    complete(folder, **fields(kind))


@pytest.mark.parametrize(
    "kind",
    # The others are killed thirty-six times in the storms below.
    [*("lora", "full"), *(pytest.param(kind, marks=pytest.mark.storm) for kind in LONG)],
)
def test_killed_run_ends_as_the_whole_one(whole, tmp_path, kind):
    """Killed at a touch drawn at random, behind a checkpoint: log, samples, weights are equal."""
    reference, touches = whole(kind)
    late = 2 * touches // 3
    storm(tmp_path / "out", kind, touches, kills=1, draw=random.Random(kind), first=late)
    assert_equal_runs(tmp_path / "out", reference)


@pytest.mark.storm
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_storm_of_kills(whole, tmp_path, kind, seed):
    """18 runs, each killed three times at random touches of the disk."""
    reference, touches = whole(kind)
    storm(tmp_path / "out", kind, touches, kills=3, draw=random.Random(f"{kind} {seed}"))
    assert_equal_runs(tmp_path / "out", reference)


@pytest.mark.storm
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("kind", KINDS)
def test_storm_of_kills_by_the_clock(whole, tmp_path, kind, seed):
    """18 runs, each stopped at three random moments, by SIGKILL or by a signal it may heed."""
    reference, _ = whole(kind)
    draw = random.Random(f"clock {kind} {seed}")
    folder = tmp_path / "out"
    span_s = 1.5 * result_of(reference)["wall_s"]
    for _ in range(3):
        process = start(folder, **fields(kind))
        number = draw.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        try:
            process.wait(timeout=draw.uniform(0, span_s))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
        # 1 and the bare signals: it came before Python or we were ready for it.
        assert process.wait(timeout=60) in (0, 75, 1, -number)
    complete(folder, **fields(kind))
    assert_equal_runs(folder, reference)


def test_torn_checkpoint_is_passed_over(whole, tmp_path):
    """The newest one loses its tail: the run goes on from the one before, to the same end."""
    reference, _ = whole("lora")
    folder = tmp_path / "out"
    settings = fields("lora") | {"save_steps": 1}
    process = start(folder, **settings)
    wait_until(lambda: (folder / "checkpoint-2").exists(), process)
    process.kill()
    process.wait()
    newest = max(folder.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]))
    torn = newest / "optimizer.safetensors"
    torn.write_bytes(torn.read_bytes()[:-100])
    done = complete(folder, **settings)
    assert f"passing over {newest}: optimizer.safetensors" in done.stderr
    assert "going on from" in done.stderr
    assert_equal_runs(folder, reference)


def test_sigterm_checkpoints_and_the_same_command_goes_on(whole, tmp_path):
    """Exit 75, a verdict, the last whole state on disk; then the same end as ever."""
    reference, _ = whole("lora")
    folder = tmp_path / "out"
    process = start(folder, **fields("lora"))
    wait_until(lambda: any("lr" in line for line in log_of(folder)), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    result = result_of(folder)
    assert (result["status"], result["exit_code"]) == ("interrupted", 75)
    assert "stopped" in result["reason"]
    assert (folder / f"checkpoint-{result['updates']}").is_dir()
    done = complete(folder, **fields("lora"))
    assert f"after update {result['updates']}" in done.stderr
    assert_equal_runs(folder, reference)


def test_signal_in_an_evaluation_keeps_what_is_done(tmp_path):
    """The first evaluation is done, the second is stopped: only the second is done again."""
    folder = tmp_path / "out"
    settings = SHORT | {"max_train_samples": 2000, "eval_subset_size": 2000}
    process = start(folder, **settings)
    wait_until(lambda: log_of(folder), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    first = log_of(folder)
    assert [line["split"] for line in first] == ["test"]
    process = start(folder, **settings)
    wait_until(lambda: "going on from" in said(folder), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    # To the very second that it took: it is the same line.
    assert log_of(folder)[0] == first[0]


def test_signal_while_loading_ends_at_once(tmp_path):
    """Nothing is worth keeping yet: exit 75 all the same, with a verdict."""
    folder = tmp_path / "out"
    process = start(folder, **SHORT)
    wait_until(lambda: (folder / "config.resolved.json").exists(), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    assert result_of(folder)["status"] == "interrupted"
    assert not log_of(folder)
