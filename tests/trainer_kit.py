"""Runs the trainer as users do: a child process on the tiny model, and reads what it left."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx

TIMEOUT_S = 240

# Six updates in two epochs, the last of each on half a batch; both evaluations in play.
FAST = {
    "model_name": "builtin/tiny",
    "dataset": "builtin/arithmetic",
    "system_prompt": "",
    "assistant_prefix": "",
    "quantize_for_rollouts": False,
    "lora_rank": 4,
    "learning_rate": 1e-3,
    "max_train_samples": 10,
    "num_epochs": 2,
    "batch_size": 2,
    "gradient_accumulation_steps": 2,
    "num_generations": 4,
    "max_new_tokens": 24,
    "temperature": 1.0,
    "eval_steps": 3,
    "eval_samples": 8,
    "eval_every_updates": 4,
    "eval_subset_size": 6,
    "eval_max_new_tokens": 32,
    "save_steps": 2,
}
UPDATES = 6


def command(folder: Path, *options: str, **fields) -> list[str]:
    """The trainer's command line for a fast run into `folder`."""
    settings = {**FAST, "output_dir": str(folder), "run_name": folder.name, **fields}
    config = folder.parent / f"{folder.name}.toml"
    config.write_text("\n".join(f"{k} = {json.dumps(v)}" for k, v in settings.items()))
    return [sys.executable, "-P", "-m", "grpo_core", "--config", str(config), *options]


def surroundings(folder: Path, env: dict[str, str] | None = None) -> dict[str, str]:
    """An environment of its own beside the folder: home, caches, GPU lock; no network."""
    home = str(folder.parent / "home")
    names = ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME")
    own = {"GRPO_GPU_LOCK": str(folder.parent / "gpu.lock"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **dict.fromkeys(names, home), **own, **(env or {})}


def start(folder: Path, *options: str, env=None, **fields) -> subprocess.Popen:
    """Begin a run; what it says goes to `said`."""
    with open(folder.parent / f"{folder.name}.err", "ab") as log:
        return subprocess.Popen(
            command(folder, *options, **fields),
            stdout=log,
            stderr=log,
            env=surroundings(folder, env),
        )


def said(folder: Path) -> str:
    """What all runs begun by `start` in this folder said."""
    return (folder.parent / f"{folder.name}.err").read_text()


def train(folder: Path, *options: str, env=None, **fields) -> subprocess.CompletedProcess:
    """A run to its end, whatever that is."""
    return subprocess.run(
        command(folder, *options, **fields),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=surroundings(folder, env),
    )


def complete(folder: Path, *options: str, **fields) -> subprocess.CompletedProcess:
    """A run that must end well."""
    done = train(folder, *options, **fields)
    assert done.returncode == 0, done.stderr
    return done


def wait_until(condition, process: subprocess.Popen | None = None) -> None:
    """Poll until the condition holds; fail when time is up or the process ends before."""
    deadline = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never held"
        assert process is None or process.poll() is None, "the process ended before"
        time.sleep(0.005)


def log_of(folder: Path) -> list[dict]:
    """The lines of the training log; none where it is not there yet, or torn at its end."""
    try:
        text = (folder / "training_log.jsonl").read_text()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def result_of(folder: Path) -> dict:
    """result.json."""
    return json.loads((folder / "result.json").read_text())


def is_measure(key: str) -> bool:
    """The contract of names: what may differ between two runs of the same."""
    return key.endswith(("_s", "_bytes"))


def reproducible(line: dict) -> dict:
    """A line without its times and memory."""
    return {key: value for key, value in line.items() if not is_measure(key)}


def reproducible_log(folder: Path) -> list[dict]:
    """The log but for times: what must be equal between two runs of the same."""
    return [reproducible(line) for line in log_of(folder)]


def samples(folder: Path) -> str:
    """samples.jsonl as it stands."""
    return (folder / "samples.jsonl").read_text()


def weights(folder: Path) -> dict[str, mx.array]:
    """All arrays of a final/ or checkpoint folder, but for the optimizer's."""
    found: dict[str, mx.array] = {}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name != "optimizer.safetensors":
            found |= mx.load(str(path))
    assert found
    return found


def assert_equal_runs(one: Path, other: Path) -> None:
    """Log but for times, samples, and final weights to the last bit."""
    assert reproducible_log(one) == reproducible_log(other)
    assert samples(one) == samples(other)
    a, b = weights(one / "final"), weights(other / "final")
    assert a.keys() == b.keys()
    different = [name for name in a if not mx.array_equal(a[name], b[name]).item()]
    assert not different
