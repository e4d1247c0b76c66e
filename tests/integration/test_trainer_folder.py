"""Output folders, locks and the command line of the trainer, with real processes."""

import json
import shutil
import signal
import subprocess
import sys

import pytest

from grpo_core.config import FIELDS, GROUPS
from tests.trainer_kit import (
    command,
    complete,
    log_of,
    result_of,
    said,
    start,
    surroundings,
    train,
    wait_until,
)

# One update: these tests look at what stands around the training.
ONE = {"max_train_samples": 4, "num_epochs": 1, "eval_steps": 0, "eval_every_updates": 0}


def python(*args: str, folder, **env) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-P", *args],
        capture_output=True,
        text=True,
        timeout=120,
        env=surroundings(folder, env),
    )


def test_loop_with_one_output_dir_ends_in_three_folders(tmp_path):
    """The seed's loop over learning rates: no run writes over another, and each says where."""
    folder = tmp_path / "out"
    rates = ["1e-6", "5e-7", "1e-7"]
    done = [complete(folder, "--set", f"learning_rate={rate}", **ONE) for rate in rates]
    folders = [folder, tmp_path / "out-2", tmp_path / "out-3"]
    for rate, own in zip(rates, folders, strict=True):
        config = json.loads((own / "config.resolved.json").read_text())
        assert config["learning_rate"] == float(rate)
        assert config["output_dir"] == str(own)
        assert result_of(own)["status"] == "completed"
    assert "learning_rate = 1e-06, not 5e-07" in done[1].stderr
    assert f"writing to {folders[2]}" in done[2].stderr
    again = complete(folder, "--set", "learning_rate=5e-7", **ONE)
    assert f"{folders[1]} is completed" in again.stderr


def test_output_dir_that_is_a_file_is_refused(tmp_path):
    """Exit 2 and the file's name."""
    (tmp_path / "out").write_text("a file")
    done = train(tmp_path / "out", **ONE)
    assert done.returncode == 2
    assert "is a file" in done.stderr
    assert "Traceback" not in done.stderr


def test_two_at_once_share_nothing(tmp_path):
    """The same command twice at once: one trains, the other waits and finds it done."""
    folder = tmp_path / "out"
    both = [start(folder, **ONE) for _ in range(2)]
    assert [process.wait(timeout=240) for process in both] == [0, 0]
    words = said(folder)
    assert words.count("completed: 1 updates") == 1
    assert words.count("is completed") == 1
    assert len(log_of(folder)) == 1


@pytest.fixture
def holder(tmp_path):
    """A process that holds the GPU lock; killed at the end."""
    code = (
        "import sys, time; from pathlib import Path; from grpo_core.run.locks import Lock\n"
        "assert Lock(Path(sys.argv[1]), 'somebody').try_acquire()\n"
        "print('held', flush=True); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "gpu.lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_trainer_waits_for_the_gpu_and_says_for_whom(tmp_path, holder):
    """The line names pid and run; when the holder dies, training begins."""
    folder = tmp_path / "out"
    process = start(folder, **ONE)
    words = f"[lock] waiting for the GPU, held by pid {holder.pid} (somebody) since 20"
    wait_until(lambda: words in said(folder), process)
    assert not log_of(folder)
    holder.kill()
    assert process.wait(timeout=240) == 0


def test_waiting_trainer_stops_at_sigterm(tmp_path, holder):
    """Exit 75, a verdict, while the lock is still held."""
    folder = tmp_path / "out"
    process = start(folder, **ONE)
    wait_until(lambda: "waiting for the GPU" in said(folder), process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert result_of(folder)["status"] == "interrupted"
    assert holder.poll() is None


def test_no_wait_exits_75_at_once(tmp_path, holder):
    """And says who has it; the folder can go on later."""
    done = train(tmp_path / "out", "--no-wait", **ONE)
    assert done.returncode == 75
    assert f"held by pid {holder.pid} (somebody)" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_has_every_field_and_loads_no_mlx(tmp_path):
    """Grouped, with default, unit and range; and quick, as nothing heavy is imported."""
    code = (
        "import sys; from grpo_core.__main__ import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('mlx', 'numpy', 'transformers') if m in sys.modules])"
    )
    done = python("-c", code, folder=tmp_path / "out")
    assert done.stdout.rstrip().endswith("[]")
    for name in FIELDS:
        assert f"\n  {name} = " in done.stdout
    for group in GROUPS:
        assert f"\n\n{group}\n" in done.stdout
    assert "reward_timeout_s = 30.0  (float, s; above 0)" in done.stdout
    assert "train_type = lora  (str; one of lora, dora, full)" in done.stdout


def test_version(tmp_path):
    """One line."""
    done = python("-m", "grpo_core", "--version", folder=tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, "mlx-grpo 0.1.0\n")


def test_environment_names_the_config(tmp_path):
    """MLX_GRPO_CONFIG counts where --config is not given."""
    args = command(tmp_path / "out", **ONE)
    done = python("-m", "grpo_core", "--dry-run", folder=tmp_path / "out", MLX_GRPO_CONFIG=args[5])
    assert f"[config] loading {args[5]}" in done.stderr
    assert done.returncode == 0


def test_bad_config_costs_no_import_of_mlx(tmp_path):
    """The fault is found before anything heavy is loaded."""
    code = (
        "import sys; from grpo_core.__main__ import main\n"
        "print(main(['--config', sys.argv[1], '--strict', '--set', 'learning_rat=1']))\n"
        "print([m for m in ('mlx', 'numpy', 'transformers') if m in sys.modules])"
    )
    args = command(tmp_path / "out", **ONE)
    done = python("-c", code, args[5], folder=tmp_path / "out")
    assert done.stdout == "2\n[]\n"
    assert "did you mean learning_rate?" in done.stderr


def test_debug_shows_where_values_come_from_and_tracebacks(tmp_path):
    """--set debug=true: each value's source, and the traceback of an error."""
    done = train(tmp_path / "out", "--set", "debug=true", "--set", "dataset=missing.jsonl", **ONE)
    assert done.returncode == 3
    assert "[debug] dataset=missing.jsonl  (--set)" in done.stderr
    assert "[debug] num_generations=4  (" in done.stderr
    assert "Traceback" in done.stderr


def test_missing_data_and_model_are_exit_3_without_traceback(tmp_path):
    """One message each, and a verdict in the folder."""
    for n, field in enumerate(("dataset", "model_name")):
        folder = tmp_path / f"out{n}"
        done = train(folder, "--set", f"{field}=./missing.jsonl", **ONE)
        assert done.returncode == 3
        assert "missing.jsonl" in done.stderr
        assert "Traceback" not in done.stderr
        result = result_of(folder)
        assert (result["status"], result["exit_code"]) == ("failed", 3)
        assert "missing.jsonl" in result["reason"]


def test_changed_data_are_not_trained_on(tmp_path):
    """The rows of a checkpoint must be there: else exit 3 and the way out."""
    rows = tmp_path / "rows.jsonl"
    lines = [
        json.dumps({"question": f"What is {n} + 1?", "answer": f"#### {n + 1}"}) for n in range(40)
    ]
    rows.write_text("\n".join(lines))
    folder = tmp_path / "out"
    settings = ONE | {"dataset": str(rows), "max_train_samples": 0, "save_steps": 1}
    process = start(folder, **settings)
    wait_until(lambda: (folder / "checkpoint-1").exists(), process)
    process.kill()
    process.wait()
    rows.write_text("\n".join(lines[:-1]))
    done = train(folder, **settings)
    assert done.returncode == 3
    assert "trained on other rows" in done.stderr


def test_trainer_keeps_its_machine_awake(tmp_path):
    """By itself, sweep or not; where that cannot be, it is said and the training goes on."""
    code = (
        "import errno, sys; import grpo_core.__main__ as m\n"
        "def awake(pid): raise FileNotFoundError(errno.ENOENT, f'asked by {pid}', 'caffeinate')\n"
        "m.stay_awake = awake\n"
        "sys.exit(m.main(sys.argv[1:]))"
    )
    args = command(tmp_path / "out", **ONE)
    with subprocess.Popen(
        [sys.executable, "-P", "-c", code, *args[4:]],
        stderr=subprocess.PIPE,
        text=True,
        env=surroundings(tmp_path / "out"),
    ) as trainer:
        _, err = trainer.communicate(timeout=240)
    assert f"[note] the machine may go to sleep: caffeinate: asked by {trainer.pid}" in err
    assert trainer.returncode == 0


HELD = """
import time
from pathlib import Path

here = Path(__file__).parent

def f(completions):
    (here / "begun").touch()
    while (here / "hold").exists():
        time.sleep(0.01)
    return [float(len(text)) for text in completions]
"""


def move(folder):
    folder.rename(folder.with_name("moved"))


def move_and_replace(folder):
    """By a folder of somebody else's, who uses our names."""
    move(folder)
    folder.mkdir()
    for name in (".lock", "training_log.jsonl", "result.json"):
        (folder / name).write_text("mine\n")


def remove_log(folder):
    (folder / "training_log.jsonl").unlink()


@pytest.mark.parametrize("spoil", [move, move_and_replace, shutil.rmtree, remove_log])
def test_a_folder_that_is_moved_under_a_run_ends_it_so_that_it_can_go_on(tmp_path, spoil):
    """Exit 75 at the next checkpoint: nothing more is written where the run is no longer.

    It used to end as completed, without its log, and was never trained again.
    """
    folder, hold = tmp_path / "out", tmp_path / "hold"
    (tmp_path / "held.py").write_text(HELD)
    run = {**ONE, "num_epochs": 3, "save_steps": 1, "rewards": [f"{tmp_path}/held.py:f"]}
    run["logging_steps"] = 1
    process = start(folder, **run)
    wait_until(lambda: (folder / "checkpoint-1").exists(), process)
    hold.touch()
    (tmp_path / "begun").unlink()
    wait_until(lambda: (tmp_path / "begun").exists(), process)
    there = {path.name: path.read_text() for path in folder.glob("*.json*")}
    spoil(folder)
    left = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    hold.unlink()
    assert process.wait(timeout=240) == 75
    last = said(folder).splitlines()[-1]
    assert last.startswith(f"error: {folder}")
    assert "moved or deleted" in last
    if spoil is not remove_log:
        assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == left
    if spoil is move_and_replace:
        shutil.rmtree(folder)
    if (moved := folder.with_name("moved")).exists():
        assert there["config.resolved.json"] == (moved / "config.resolved.json").read_text()
        moved.rename(folder)
    complete(folder, **run)
    assert result_of(folder)["status"] == "completed"
    logged = [line["update"] for line in log_of(folder) if "lr" in line]
    assert logged == ([2, 3] if spoil is remove_log else [1, 2, 3])


@pytest.mark.parametrize("spoil", [move, move_and_replace])
def test_a_folder_that_is_moved_before_the_first_line_of_a_log_ends_the_run_too(tmp_path, spoil):
    """Nothing is written where the folder was; it used to end in a bare FileNotFoundError."""
    folder, hold = tmp_path / "out", tmp_path / "hold"
    (tmp_path / "held.py").write_text(HELD)
    hold.touch()
    process = start(folder, **ONE, rewards=[f"{tmp_path}/held.py:f"])
    wait_until(lambda: (tmp_path / "begun").exists(), process)
    spoil(folder)
    left = {path: path.read_bytes() for path in folder.rglob("*")}
    hold.unlink()
    assert process.wait(timeout=240) == 75
    assert f"error: {folder}: moved or deleted while the run wrote to it" in said(folder)
    assert {path: path.read_bytes() for path in folder.rglob("*")} == left
