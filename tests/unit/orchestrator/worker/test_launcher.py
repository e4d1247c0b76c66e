"""Starting, stopping and collecting one trainer, with real processes."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.run import Verdict
from orchestrator.system.locks import is_held, try_lock
from orchestrator.system.paths import home
from orchestrator.system.processes import boot_id, start_time
from orchestrator.worker.attempt_log import read_tail
from orchestrator.worker.launcher import (
    TRAINER,
    Adopted,
    LaunchError,
    attempt_token,
    command,
    halvings,
    launch,
    traces,
)
from tests.queue_kit import FAKE, eventually, is_alive, kill_group
from tests.records import a_run, an_attempt

_PRINT = (
    sys.executable,
    "-c",
    "import os, sys; print(os.getcwd(), sys.argv[1:], os.environ['GRPO_SWEEP_RUN'])",
)


@pytest.fixture
def here():
    """The home of this test, made."""
    return home().make()


def first_attempt(here, **values):
    """The first attempt of run 1, its log where the worker puts it."""
    return an_attempt(log=str(here.attempt_log(1, 1)), **values)


def fake_run(tmp_path, *words):
    """A run of the fake trainer that would go on for a long time."""
    folder = tmp_path / "out"
    return a_run(set=(*words, "updates=10000", f"output_dir={folder}"), cwd=str(tmp_path))


@pytest.mark.parametrize(
    ("checkpoints", "outcomes", "now", "wanted"),
    [
        ((), (), -1, 0),
        ((-1,), ("oom",), -1, 1),
        ((-1, -1), ("oom", "oom"), -1, 2),
        # A checkpoint holds the cut of the attempt that wrote it: only its death counts.
        ((-1, -1, 4), ("oom", "oom", "oom"), 9, 1),
        ((-1, 4, 4), ("oom", "oom", "oom"), 4, 3),
        # Any other ending in between does not take it back.
        ((4, 4), ("oom", "interrupted"), 4, 1),
        ((4, 9), ("oom", "interrupted"), 9, 1),
        ((4, 9), ("oom", "interrupted"), 12, 0),
        ((4, 4), ("crash", "lost"), 4, 0),
    ],
)
def test_each_death_for_memory_halves_what_the_next_attempt_begins_with(
    checkpoints, outcomes, now, wanted
):
    """Counted from what the newest checkpoint knows; by hand."""
    earlier = [
        an_attempt(checkpoint=c, outcome=o, signal="SIGSEGV" if o == "oom" else None)
        for c, o in zip(checkpoints, outcomes, strict=True)
    ]
    assert halvings(earlier, now) == wanted
    ended = [replace(attempt, signal=None) for attempt in earlier]
    assert halvings(ended, now) == 0


def test_command_is_the_contract(here):
    """Frozen config, every override in order, strict; the user's folder not on the path."""
    run = a_run(set=("learning_rate=1e-06", "seed=3", "output_dir=o u t"))
    assert command(run, here) == [
        *(sys.executable, "-P", "-m", "grpo_core", "--config", str(here.frozen_config(1))),
        *("--set", "learning_rate=1e-06", "--set", "seed=3", "--set", "output_dir=o u t"),
        "--strict",
    ]  # fmt: skip
    assert command(run, here)[:4] == list(TRAINER)


def test_trainer_runs_in_the_folder_of_the_submit_and_says_so_in_its_log(tmp_path, here):
    """Its own session, its words in the attempt's log under the exact command."""
    run, attempt = a_run(set=("a=1",), cwd=str(tmp_path)), first_attempt(here)
    trainer = launch(run, attempt, here, _PRINT)
    assert os.getsid(trainer.pid) == trainer.pid
    assert trainer.wait(30)
    trainer.close()
    text = Path(attempt.log).read_text()
    assert text.startswith("== attempt 1 of run 1: ")
    assert f"--config {here.frozen_config(1)} --set a=1 --strict" in text.splitlines()[0]
    assert read_tail(Path(attempt.log)).startswith(f"{tmp_path} ['--config', ")
    assert read_tail(Path(attempt.log)).endswith(" 1")


def test_lock_of_the_run_is_held_as_long_as_the_trainer_lives(tmp_path, here):
    """Also when the worker has let go of it."""
    trainer = launch(fake_run(tmp_path), first_attempt(here), here, FAKE)
    trainer.close()
    assert is_held(here.run_lock(1))
    trainer.kill()
    assert trainer.wait(30)
    assert (trainer.exit_code, trainer.signal) == (None, 9)
    assert not is_held(here.run_lock(1))


def test_interrupt_lets_the_trainer_save(tmp_path, here):
    """SIGTERM: a checkpoint, exit 75."""
    trainer = launch(fake_run(tmp_path), first_attempt(here), here, FAKE)
    eventually(lambda: (tmp_path / "out/checkpoint-1").exists())
    trainer.interrupt()
    assert trainer.wait(30)
    trainer.close()
    assert (trainer.exit_code, trainer.signal) == (75, None)


def test_children_do_not_outlive_the_trainer(tmp_path, here):
    """However it ends, its group is gone."""
    trainer = launch(fake_run(tmp_path, "child=true"), first_attempt(here), here, FAKE)
    eventually(lambda: (tmp_path / "out/checkpoint-1").exists())
    child = int((tmp_path / "out/child").read_text())
    trainer.interrupt()
    assert trainer.wait(30)
    trainer.close()
    eventually(lambda: not is_alive(child))


def test_adopted_trainer_can_be_stopped_by_its_token(tmp_path, here):
    """Nobody recorded its pid: what it carries in its environment finds it."""
    attempt = first_attempt(here)
    trainer = launch(fake_run(tmp_path), attempt, here, FAKE)
    trainer.close()
    eventually(lambda: (tmp_path / "out/checkpoint-1").exists())
    adopted = Adopted(traces(attempt, here))
    assert adopted.pid == trainer.pid
    assert not adopted.wait(0)
    adopted.interrupt()
    assert trainer.wait(30)
    assert trainer.exit_code == 75
    assert adopted.wait(30)
    adopted.close()


def test_another_process_with_the_pid_of_a_trainer_is_never_signalled(tmp_path, here):
    """A pid that was given to somebody else since: same number, other start."""
    stranger = launch(fake_run(tmp_path), first_attempt(here), here, FAKE)
    stranger.close()
    eventually(lambda: (tmp_path / "out/checkpoint-1").exists())
    ours = first_attempt(here, run_id=2, pid=stranger.pid, pid_started=1.0)
    adopted = Adopted(traces(ours, here))
    for act in (adopted.interrupt, adopted.terminate, adopted.kill):
        act()
    assert not stranger.wait(0.2)
    kill_group(stranger.pid)
    assert stranger.wait(30)


@pytest.mark.parametrize(
    ("run", "trainer", "words", "verdict"),
    [
        (a_run(cwd="/nowhere/at/all"), FAKE, "folder from which the sweep was submitted", "config"),
        (a_run(cwd="/"), ("/no/such/python",), "/no/such/python: No such file", "crash"),
    ],
)
def test_trainer_that_cannot_be_started_is_said(here, run, trainer, words, verdict):
    """No process: the reason, whether it may be tried again, and the lock is free."""
    with pytest.raises(LaunchError, match=words) as caught:
        launch(run, first_attempt(here), here, trainer)
    assert caught.value.verdict == Verdict(verdict)
    assert not is_held(here.run_lock(1))


def test_run_whose_lock_is_held_is_not_started(tmp_path, here, monkeypatch):
    """A left-over process of the run keeps a second trainer away."""
    monkeypatch.setattr("orchestrator.worker.launcher._LEFTOVERS_S", 0.05)
    with try_lock(here.run_lock(1)), pytest.raises(LaunchError, match="earlier attempt"):
        launch(fake_run(tmp_path), first_attempt(here), here, FAKE)


def test_token_names_queue_and_attempt(here):
    """Two queues may both have an attempt 5."""
    other = replace(here, root=here.root / "other")
    assert attempt_token(first_attempt(here), here) != attempt_token(first_attempt(here), other)


@pytest.mark.parametrize("adopts", [False, True])
def test_a_trainer_whose_lock_is_removed_still_lives(tmp_path, here, adopts):
    """Its run is held for whoever asks, and it ends when its process does."""
    attempt = first_attempt(here)
    trainer = launch(fake_run(tmp_path), attempt, here, FAKE)
    known = replace(attempt, pid=trainer.pid, pid_started=start_time(trainer.pid))
    shutil.rmtree(here.root / "locks")
    watched = Adopted(traces(replace(known, boot_id=boot_id()), here)) if adopts else trainer
    for _ in range(3):
        assert not watched.wait(0.01)
        watched.keep()
        assert is_held(here.run_lock(1))
    trainer.kill()
    assert trainer.wait(30)
    assert eventually(lambda: watched.wait(0.01))
    watched.close()
    trainer.close()
    assert not is_held(here.run_lock(1))
