"""A run knows its BLAS: recorded, reported, and refused under --strict where it became another."""

import json
import sys

import pytest

from tests.trainer_kit import complete, reproducible_log, result_of, start, train, wait_until

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux only")

SHORT = {"num_epochs": 1, "eval_steps": 0, "eval_every_updates": 0, "save_steps": 1}
OWN = {"GRPO_BLAS": "reference"}


def blas_of_checkpoint(folder):
    """Version and threads as the only or newest checkpoint holds them."""
    newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    state = json.loads((newest / "trainer_state.json").read_text())
    return state["versions"]["blas"], state["threads"]


def stopped_early(folder):
    """A run under the usual BLAS that was killed after its first checkpoint."""
    process = start(folder, **SHORT)
    wait_until(lambda: (folder / "checkpoint-1").exists(), process)
    process.kill()
    process.wait()


def test_a_run_says_and_records_what_multiplied(tmp_path):
    """One line at the start; version, kernels and threads in each checkpoint and the result."""
    folder = tmp_path / "out"
    done = complete(folder, **SHORT)
    [line] = [line for line in done.stderr.splitlines() if line.startswith("[blas]")]
    version, threads = blas_of_checkpoint(folder)
    assert version.startswith("OpenBLAS 0.3.") and threads == 1
    assert line == f"[blas] {version}, 1 thread"
    result = result_of(folder)
    assert (result["blas"], result["threads"]) == (version, threads)


def test_going_on_under_another_one_is_said(tmp_path):
    """By hand a line says that bits may differ, and what the reference costs; it goes on."""
    folder = tmp_path / "out"
    stopped_early(folder)
    done = complete(folder, env=OWN, **SHORT)
    assert "[blas] MLX's own, some 30 times slower" in done.stderr
    assert "[resume] blas was OpenBLAS 0.3." in done.stderr
    assert "is MLX's own: bits may differ" in done.stderr
    assert blas_of_checkpoint(folder)[0] == "MLX's own"


def test_strict_refuses_to_go_on_under_another_one(tmp_path):
    """Exit 2 and what to do; under the old one the same command goes on, to the whole run's end."""
    folder = tmp_path / "out"
    stopped_early(folder)
    done = train(folder, "--strict", env=OWN, **SHORT)
    assert done.returncode == 2
    assert "trained with OpenBLAS 0.3." in done.stderr and "go on without --strict" in done.stderr
    assert result_of(folder)["exit_code"] == 2
    complete(folder, "--strict", **SHORT)
    complete(tmp_path / "whole", **SHORT)
    assert reproducible_log(folder) == reproducible_log(tmp_path / "whole")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"GRPO_BLAS": "/nowhere/libblas.so"}, "GRPO_BLAS = '/nowhere/libblas.so': there is no"),
        ({"GRPO_THREADS": "many"}, "GRPO_THREADS = 'many': not a number of threads"),
        ({"GRPO_DEVICE": "mps"}, "GRPO_DEVICE = 'mps': must be cpu or gpu, or not set"),
    ],
)
@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_wrong_settings_are_one_message(tmp_path, env, message, options):
    """Exit 2, before a folder is made."""
    folder = tmp_path / "out"
    done = train(folder, *options, env=env, **SHORT)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"error: {message}")
    assert not folder.exists()
