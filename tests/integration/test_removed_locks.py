"""Lock files that somebody removes while they are held, with real workers and real trainers.

An flock is on the file, not on its name: who locks the name anew is alone with it.
"""

import os
import shutil
import signal

from grpo_core.run.locks import read_holder
from orchestrator.queue.store import Store
from orchestrator.system.locks import is_held
from orchestrator.system.paths import home
from orchestrator.worker.serving import worker_alive
from tests.queue_kit import (
    attempts,
    eventually,
    is_alive,
    kill_group,
    planned,
    states,
    submit,
    trainers_started,
    updates_logged,
)
from tests.queue_kit import runs as all_runs
from tests.trainer_kit import result_of, said
from tests.trainer_kit import start as start_trainer

LONG = {"max_train_samples": 10, "num_epochs": 1000, "eval_steps": 0, "eval_every_updates": 0}


def training_pid():
    """The pid of the trainer that the queue knows, once it has logged something."""

    def known():
        with Store.open(readonly=True) as store:
            for run in store.queries.running():
                if (run.folder / "training_log.jsonl").exists():
                    return store.queries.attempts(run.id)[-1].pid
        return None

    return eventually(known)


def test_a_second_worker_is_refused_though_the_locks_are_removed(tmp_path, start):
    """The worker takes the files that stand there instead, and says so; the run goes on."""
    submit(tmp_path, planned("a", updates=10_000))
    first = start()
    training_pid()
    shutil.rmtree(home().root / "locks")
    eventually(lambda: worker_alive() == first.process.pid and is_held(home().run_lock(1)))
    second = start()
    assert second.wait() == 3
    assert "a worker serves this queue already" in second.text
    assert "was removed or replaced: this worker holds the new file" in first.text
    first.signal(signal.SIGTERM)
    assert first.wait() == 75
    assert [a.outcome for a in attempts()] == ["interrupted"]
    assert len(trainers_started(tmp_path)) == 1


def test_a_worker_whose_queue_is_removed_ends(tmp_path, start):
    """It would hold the locks of a queue that nobody sees; the trainer goes on alone."""
    submit(tmp_path, planned("a", updates=10_000))
    worker = start()
    pid = training_pid()
    shutil.rmtree(home().root)
    assert worker.wait() == 2
    assert f"the worker ends; its trainer (pid {pid}) goes on alone" in worker.text
    assert is_alive(pid)
    kill_group(pid)
    submit(tmp_path, planned("b"))
    assert start().wait() == 0
    assert states() == ["completed"]


def test_a_worker_adopts_a_trainer_whose_lock_is_gone(tmp_path, start):
    """It lives, whatever its lock says: it is neither killed nor started again."""
    submit(tmp_path, planned("a", updates=30, update_s=0.05))
    first = start()
    pid = training_pid()
    os.kill(pid, signal.SIGSTOP)
    first.kill()
    shutil.rmtree(home().root / "locks")
    second = start()
    assert eventually(lambda: second.events("adopted"))[0]["text"] == f"trains on (pid {pid})"
    assert is_alive(pid)
    os.kill(pid, signal.SIGCONT)
    assert second.wait() == 0
    assert states() == ["completed"]
    assert [a.outcome for a in attempts()] == ["completed"]
    assert updates_logged(all_runs()[0]) == list(range(1, 31))
    assert trainers_started(tmp_path) == [pid]


def test_a_second_trainer_is_refused_though_the_lock_of_the_gpu_is_removed(tmp_path):
    """The first holds the new file as well; the second waits for it, and says for whom."""
    lock, first, second = (tmp_path / name for name in ("gpu.lock", "first", "second"))
    processes = [start_trainer(first, **LONG)]
    try:
        eventually(lambda: (first / "training_log.jsonl").exists())
        lock.unlink()
        assert eventually(lambda: read_holder(lock)).pid == processes[0].pid
        processes.append(start_trainer(second, "--no-wait", **LONG))
        assert processes[1].wait(120) == 75
        assert f"the GPU is held by pid {processes[0].pid}" in said(second)
        assert f"{lock} was removed or replaced: this run holds the new file" in said(first)
        processes[0].send_signal(signal.SIGTERM)
        assert processes[0].wait(120) == 75
        assert result_of(first)["status"] == "interrupted"
    finally:
        for process in processes:
            process.kill()
            process.wait()
