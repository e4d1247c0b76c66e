"""Every bad end has its exit code, its message, its result.json, and leaves what can go on."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.run.checkpoint import damage
from tests.trainer_kit import (
    TIMEOUT_S,
    command,
    complete,
    log_of,
    result_of,
    surroundings,
    train,
)

FAULTS = Path(__file__).parents[1] / "fault_at.py"
FEW = {"num_epochs": 1, "eval_samples": 4, "eval_every_updates": 0, "max_new_tokens": 16}

TIMEOUT = (
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
)
MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)


def train_with_fault(folder, at, times, text, **fields):
    """A run whose gradient fails at that call, and `times - 1` more."""
    args = command(folder, **fields)
    return subprocess.run(
        [sys.executable, "-P", str(FAULTS), str(at), str(times), text, *args[4:]],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=surroundings(folder),
    )


def assert_failed(done, folder, code, words):
    """One message, no traceback, and the same verdict in result.json."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert words in last
    result = result_of(folder)
    assert (result["status"], result["exit_code"]) == ("failed", code)
    assert f"error: {result['reason']}" == last


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [(TIMEOUT, 5, "watchdog"), (MEMORY, 4, "lower what it takes: micro_batch_size=1")],
    ids=["watchdog", "memory"],
)
def test_fault_of_the_device_has_its_own_code_and_advice(tmp_path, text, code, words):
    """At the third update: two are counted, and their state is that of the last checkpoint."""
    folder = tmp_path / "out"
    assert_failed(train_with_fault(folder, 3, 1, text, **FEW), folder, code, words)
    assert result_of(folder)["updates"] == 2
    assert (folder / "checkpoint-2").is_dir()
    assert not (folder / "checkpoint-3").exists()


def test_halved_micro_batch_is_kept_over_a_restart(tmp_path):
    """Memory ran out once: the size that fitted is in the checkpoint, and used again."""
    folder = tmp_path / "out"
    text = "[malloc] Unable to allocate 123 bytes."
    # The second update halves to 2; the third one's watchdog ends the run.
    settings = FEW | {"save_steps": 1}
    code = f"{text}"
    done = train_with_fault(folder, 2, 1, code, **settings)
    assert done.returncode == 0, done.stderr
    assert "going on with micro_batch_size = 2" in done.stderr

    assert micro_batches(folder) == [2, 2]


def micro_batches(folder):
    """The size in each checkpoint, the oldest first."""
    files = {int(p.name.split("-")[1]): p for p in folder.glob("checkpoint-*")}
    states = [json.loads((files[n] / "trainer_state.json").read_text()) for n in sorted(files)]
    return [state["plan"]["micro_batch_size"] for state in states]


@pytest.mark.skipif(sys.platform != "linux", reason="a process's memory is limited as Linux does")
def test_a_trainer_that_memory_has_killed_goes_on_with_half_the_micro_batch(tmp_path):
    """An allocation that fails is a SIGSEGV in MLX on a CPU: only the worker sees it."""
    folder = tmp_path / "out"
    settings = FEW | {"save_steps": 1}
    done = train_with_fault(folder, 2, 1, "allocate", **settings)
    assert done.returncode == -signal.SIGSEGV
    assert micro_batches(folder) == [4]
    done = train(folder, env={"GRPO_MICRO_BATCH_HALVINGS": "1"}, **settings)
    assert done.returncode == 0, done.stderr
    assert "[memory] killed for memory before; going on with micro_batch_size = 2" in done.stderr
    assert set(micro_batches(folder)[1:]) == {2}


def test_a_micro_batch_that_the_user_gives_stays(tmp_path):
    """It is halved nowhere, whatever came before."""
    folder = tmp_path / "out"
    env = {"GRPO_MICRO_BATCH_HALVINGS": "2"}
    done = train(folder, env=env, **FEW, save_steps=1, micro_batch_size=4)
    assert done.returncode == 0, done.stderr
    assert set(micro_batches(folder)) == {4}


def test_diverged_run_ends_with_6_and_null_in_its_log(tmp_path):
    """A loss past what fp32 holds: three bad updates in a row, each logged, then the end."""
    folder = tmp_path / "out"
    settings = FEW | {"num_epochs": 4, "zero_variance": "keep", "entropy_coef": 3e38}
    done = train(folder, **settings)
    assert_failed(done, folder, 6, "not finite")
    lines = [line for line in log_of(folder) if "lr" in line]
    assert [line["skipped_updates"] for line in lines[-3:]] == [1, 2, 3]
    assert all(line["loss"] is None or line["grad_norm"] is None for line in lines[-3:])


@pytest.mark.parametrize("train_type", ["lora", "full"])
def test_a_policy_that_breaks_ends_with_6(tmp_path, train_type):
    """Weights so large that it gives NaN: it used to draw token 0 for ever and complete."""
    folder = tmp_path / "out"
    settings = FEW | {"train_type": train_type, "learning_rate": 1e20, "num_epochs": 4}
    done = train(folder, **settings)
    assert_failed(done, folder, 6, "no numbers")
    assert "is the first layer that is not finite" in done.stderr
    assert result_of(folder)["updates"] >= 1


def test_a_policy_that_breaks_in_its_last_update_ends_with_6(tmp_path):
    """Nothing is drawn after it, not even by an evaluation."""
    folder = tmp_path / "out"
    settings = FEW | {"learning_rate": 1e20, "eval_steps": 0, "warmup_ratio": 0.0}
    settings |= {
        "max_train_samples": 2,
        "gradient_accumulation_steps": 1,
        "lr_scheduler_type": "constant",
        # So that there is a gradient, whatever was drawn.
        "zero_variance": "keep",
        "entropy_coef": 0.01,
    }
    done = train(folder, **settings)
    assert_failed(done, folder, 6, "no numbers")
    assert not (folder / "final").exists()


def test_run_without_any_signal_ends_if_asked_to(tmp_path):
    """A constant reward and a window of 2: exit 6 after two updates, weights as they began."""
    (tmp_path / "flat.py").write_text(
        "def same(completions, **_):\n    return [1.0] * len(completions)\n"
    )
    folder = tmp_path / "out"
    settings = FEW | {"rewards": [f"{tmp_path}/flat.py:same"], "abort_inactive_window": 2}
    done = train(folder, **settings)
    assert_failed(done, folder, 6, "no learning signal in 2 updates in a row")
    lines = [line for line in log_of(folder) if "lr" in line]
    assert [line["frac_reward_zero_std"] for line in lines] == [1.0, 1.0]
    assert [line["loss"] for line in lines] == [0.0, 0.0]


def test_failing_reward_ends_the_run_with_3(tmp_path):
    """The row at fault is named."""
    (tmp_path / "bad.py").write_text("def bad(completions, **_):\n    raise ValueError('no')\n")
    folder = tmp_path / "out"
    done = train(folder, **FEW, rewards=[f"{tmp_path}/bad.py:bad"])
    assert_failed(done, folder, 3, "on row builtin/arithmetic")


def limited(bytes_):
    """In the child: no file may grow beyond so many bytes, as on a disk that is nearly full."""

    def apply():
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, bytes_))

    return apply


def test_full_disk_ends_with_7_and_half_a_checkpoint_is_no_checkpoint(tmp_path):
    """No file may grow: the first checkpoint fails, and the log holds what was done."""
    folder = tmp_path / "out"
    done = subprocess.run(
        command(folder, **FEW),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=surroundings(folder),
        preexec_fn=limited(60_000),
    )
    assert_failed(done, folder, 7, "free some space")
    assert not list(folder.glob("*checkpoint*"))
    assert [line["update"] for line in log_of(folder) if "lr" in line] == [1, 2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 kB; skipped where we may not mount one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_disk_that_is_really_full(small_disk):
    """ENOSPC from the file system itself: exit 7, nothing half made; with space it goes on."""
    folder = small_disk / "out"
    done = train(folder, **FEW)
    assert_failed(done, folder, 7, "free some space")
    assert not list(folder.glob(".grpo-tmp-*"))
    assert not [path for path in folder.glob("checkpoint-*") if damage(path)]
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    complete(folder, **FEW)
    assert [line["update"] for line in log_of(folder) if "lr" in line] == [1, 2, 3]
