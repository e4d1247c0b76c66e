"""A run knows in which numbers its base is held: recorded, and told where it became another."""

import json

from grpo_core.run.checkpoint import newest, save
from tests.trainer_kit import complete, start, train, wait_until

SHORT = {"num_epochs": 1, "eval_steps": 0, "eval_every_updates": 0, "save_steps": 1}


def quiet(line):
    pass


def stopped_early(folder):
    """A run that was killed after its first checkpoint, as if its base had been in 4 bits."""
    process = start(folder, **SHORT)
    wait_until(lambda: (folder / "checkpoint-1").exists(), process)
    process.kill()
    process.wait()
    found = newest(folder, quiet)
    assert found.state.versions["base model"] == "float32"
    found.state.versions["base model"] = "bfloat16 in 4 bits"

    def copy(new):
        for name in ("adapters.safetensors", "adapter_config.json"):
            (new / name).write_bytes((found.path / name).read_bytes())

    rollouts = found.path / "rollouts.json"
    held = json.loads(rollouts.read_text()) if rollouts.exists() else None
    save(folder, found.state, found.arrays, held, copy)


def test_a_base_that_was_held_in_other_numbers_is_told(tmp_path):
    """A run of a Mac, with 4 bits by default, that goes on on a CPU."""
    folder = tmp_path / "out"
    stopped_early(folder)
    done = train(folder, "--strict", **SHORT)
    assert done.returncode == 2
    assert "trained on a base in bfloat16 in 4 bits, and here it would be float32" in done.stderr
    done = complete(folder, **SHORT)
    assert "[resume] base model was bfloat16 in 4 bits, is float32: results will" in done.stderr
    assert newest(folder, quiet).state.versions["base model"] == "float32"
