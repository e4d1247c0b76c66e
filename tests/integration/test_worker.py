"""The worker with real trainers' processes, a real database and real signals."""

import itertools
import os
import re
import signal
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import WorkerBusy
from orchestrator.queue.store import Store
from orchestrator.run import Limits, Retry, StopRequest
from orchestrator.system import processes
from orchestrator.system.paths import home
from orchestrator.worker import termination
from orchestrator.worker import worker as worker_module
from orchestrator.worker.detach import spawn_detached
from orchestrator.worker.hours import Gate, Hours, Senses, Window
from orchestrator.worker.serving import serving_worker, worker_alive
from orchestrator.worker.worker import tidy, work
from tests.queue_kit import (
    FAKE,
    attempts,
    eventually,
    is_alive,
    planned,
    runs,
    states,
    submit,
    updates_logged,
)


def running_pid(worker):
    """The pid of the trainer that trains now, once the queue knows it."""

    def known():
        with Store.open(readonly=True) as store:
            run = next(iter(store.queries.running()), None)
            return run and store.queries.attempts(run.id)[-1].pid

    return eventually(known)


def insist(worker):
    """Three signals, each after the one before was heard."""
    for count in (1, 2, 3):
        worker.signal(signal.SIGINT)
        eventually(lambda n=count: len(worker.events("stopping")) == n)


def test_runs_end_one_after_another_in_order(tmp_path, start):
    """Until-empty trains every run once, in file order, and each knows what it reached."""
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    worker = start()
    assert worker.wait() == 0
    assert states() == ["completed"] * 3
    assert [e["run"] for e in worker.events("started")] == [1, 2, 3]
    for run in runs():
        assert (run.update, run.metrics["em"], run.exit_code, run.attempt) == (3, 0.5, 0, 1)
        assert run.value == 0.5
        assert updates_logged(run) == [1, 2, 3]
        assert run.deaths == 0
    assert attempts()[0].outcome == "completed"


@pytest.mark.parametrize(
    ("die", "say", "outcome", "evidence"),
    [
        ("2:2", "unknown field lr", "config", "unknown field lr"),
        ("2:3", "no column answer", "data", "no column answer"),
        ("2:4", "lower it", "oom", "lower it"),
        ("2:6", "loss is nan", "diverged", "loss is nan"),
        ("2:7", "ENOSPC", "disk_full", "ENOSPC"),
    ],
)
def test_explained_failures_are_not_repeated(tmp_path, start, die, say, outcome, evidence):
    """A run that failed for a reason fails once, with its verdict and the line that proves it."""
    submit(tmp_path, planned("a", die=die, say=say), planned("b"))
    assert start().wait() == 0
    assert states() == ["failed", "completed"]
    (attempt,) = attempts()
    assert attempt.outcome == outcome
    assert evidence in attempt.evidence


def test_crash_goes_on_from_its_checkpoint(tmp_path, start):
    """A run that died with progress made goes on and logs each update once."""
    mark = tmp_path / "died"
    submit(tmp_path, planned("a", updates=5, die="3:SIGSEGV", die_file=str(mark)))
    assert start().wait() == 0
    (run,) = runs()
    assert (str(run.state), run.attempt) == ("completed", 2)
    assert updates_logged(run) == [1, 2, 3, 4, 5]
    assert [(a.outcome, a.signal) for a in attempts()] == [
        ("crash", "SIGSEGV"),
        ("completed", None),
    ]


@pytest.mark.parametrize("how", ["SIGSEGV", "SIGABRT", "SIGKILL"])
def test_a_death_for_memory_is_tried_again_with_a_smaller_micro_batch(tmp_path, monkeypatch, how):
    """Whether the device says so or the system shows it: the next attempt is told to halve."""
    counts = itertools.count()
    monkeypatch.setattr(processes, "oom_kills", lambda: next(counts))
    say = "[METAL] Insufficient Memory (kIOGPU)" if how == "SIGABRT" else "about to die"
    submit(tmp_path, planned("a", updates=3, die=f"1:{how}", say=say), retry=Retry(max=2))
    assert work(until_empty=True, trainer=FAKE, prewarm=False) == 0
    assert states() == ["failed"]
    found = attempts()
    assert [(a.outcome, a.signal) for a in found] == [("oom", how)] * 2
    evidence = say if how == "SIGABRT" else "the kernel killed for memory: oom_kill went from "
    assert all(a.evidence.startswith(evidence) for a in found)
    told = [re.findall(r"^halvings .*", Path(a.log).read_text(), re.M) for a in found]
    assert told == [[], ["halvings 1"]]


def test_deaths_without_a_newer_checkpoint_end_a_run(tmp_path, start):
    """A poison run is tried retry.max times, and the queue goes on without it."""
    poison = planned("a", die="1:SIGKILL")
    submit(tmp_path, poison, planned("b"), retry=Retry(max=3))
    assert start().wait() == 0
    assert states() == ["failed", "completed"]
    assert len(attempts(1)) == 3
    assert "3 deaths in a row" in runs()[0].reason


def test_failures_in_a_row_of_one_verdict_hold_the_sweep(tmp_path, start):
    """After max_failures equal failures the rest of the sweep is left alone, with the reason."""
    bad = [planned(f"r{i}", die="1:4") for i in range(4)]
    submit(tmp_path, *bad, limits=Limits(max_failures=2))
    submit(tmp_path, planned("other"), name="other")
    assert start().wait() == 0
    assert states() == ["failed", "failed", "queued", "queued", "completed"]
    with Store.open(readonly=True) as store:
        sweep = store.queries.sweep("s")
    assert sweep.state == "paused"
    assert "2 failures in a row: oom" in sweep.reason


def test_gpu_hang_stops_the_queue_until_the_next_boot(tmp_path, start):
    """Nothing is burnt on a GPU that hangs; after a reboot the same run goes on."""
    hang = "Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)"
    mark = tmp_path / "hung"
    submit(tmp_path, planned("a", die="2:5", say=hang, die_file=str(mark)), planned("b"))
    assert start().wait() == 0
    assert states() == ["queued", "queued"]
    with Store.open(readonly=True) as store:
        assert "restart the machine" in store.queries.waiting(attempts()[0].boot_id).held[0]
    assert start(GRPO_SWEEP_BOOT_ID="another-boot").wait() == 0
    assert states() == ["completed", "completed"]


@pytest.mark.parametrize("child", [True, "away"])
def test_cancel_of_a_running_run_ends_it_and_its_children(tmp_path, start, child):
    """A cancelled run is gone within a moment, with every process that it had started.

    Also with one that has left its group, as a server does that a reward starts with setsid.
    """
    submit(tmp_path, planned("a", updates=10_000, child=child), planned("b"))
    worker = start()
    pid = running_pid(worker)
    child = int(eventually(lambda: _text(tmp_path / "out/a/child")))
    with Store.open() as store:
        (changed,) = store.control.cancel([1])
        assert changed.request == "cancel"
    assert worker.wait() == 0
    assert states() == ["cancelled", "completed"]
    eventually(lambda: not is_alive(pid) and not is_alive(child))


def test_cancel_outranks_the_stop_of_the_worker(tmp_path, start):
    """A run that is asked to end by both is cancelled, also when it has to be killed."""
    submit(tmp_path, planned("a", updates=10_000, deaf=True))
    worker = start()
    eventually(lambda: _text(tmp_path / "out/a/training_log.jsonl"))
    with Store.open() as store:
        store.control.cancel([1])
    insist(worker)
    assert worker.wait() == 75
    assert states() == ["cancelled"]


def test_first_signal_checkpoints_and_queues_again(tmp_path, start):
    """Ctrl-C at the worker is no failed attempt: the run goes on later from where it was."""
    submit(tmp_path, planned("a", updates=20, update_s=0.05))
    worker = start()
    running_pid(worker)
    eventually(lambda: _text(tmp_path / "out/a/training_log.jsonl"))
    worker.signal(signal.SIGINT)
    assert worker.wait() == 75
    (run,) = runs()
    assert (str(run.state), run.deaths) == ("queued", 0)
    (attempt,) = attempts()
    assert (attempt.outcome, attempt.exit_code) == ("interrupted", 75)
    assert start().wait() == 0
    (run,) = runs()
    assert str(run.state) == "completed"
    assert updates_logged(run) == list(range(1, 21))


def test_third_signal_kills_a_deaf_trainer(tmp_path, start):
    """A user who insists gets the terminal back, and the run is queued again."""
    submit(tmp_path, planned("a", updates=10_000, deaf=True, child=True))
    worker = start()
    pid = running_pid(worker)
    child = int(eventually(lambda: _text(tmp_path / "out/a/child")))
    insist(worker)
    assert worker.wait() == 75
    assert states() == ["queued"]
    eventually(lambda: not is_alive(pid) and not is_alive(child))


def test_second_worker_says_who_holds_the_queue(tmp_path, start):
    """Two workers at once: the second leaves with the pid of the first."""
    submit(tmp_path, planned("a", updates=10_000))
    first = start()
    running_pid(first)
    second = start()
    assert second.wait() == 3
    assert f"pid {first.process.pid}" in second.text
    assert worker_alive() == first.process.pid
    first.signal(signal.SIGTERM)
    assert first.wait() == 75
    assert worker_alive() is None


def test_idle_worker_takes_up_what_is_submitted_later(tmp_path, start):
    """A worker that is not told to end when the queue is empty waits for the next sweep."""
    worker = start(until_empty=False)
    eventually(lambda: worker.events("waiting"))
    submit(tmp_path, planned("a"))
    eventually(lambda: states() == ["completed"])
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 75


def test_sweep_that_comes_as_the_worker_leaves_is_not_left_alone(tmp_path, monkeypatch):
    """Who submits while the lock is still held starts no worker, so the leaving one looks again."""
    serve_alone = worker_module.serve_alone
    late = iter([True])

    @contextmanager
    def leaving(own, slots):
        with serve_alone(own, slots) as lock:
            yield lock
            if next(late, False):
                submit(tmp_path, planned("late"))

    monkeypatch.setattr(worker_module, "serve_alone", leaving)
    assert worker_module.work(until_empty=True, trainer=FAKE) == 0
    assert states() == ["completed"]


def test_detached_worker_serves_until_it_is_told_to_stop():
    """It runs on its own, says who it is, and lets nobody in beside it."""
    pid = spawn_detached()
    assert worker_alive() == pid
    assert os.getsid(pid) == pid
    with pytest.raises(WorkerBusy, match=f"pid {pid}"):
        spawn_detached()
    os.kill(pid, signal.SIGTERM)
    assert os.waitpid(pid, 0)[0] == pid
    assert worker_alive() is None


def test_detached_worker_may_find_nothing_to_do():
    """It ends at once, well, and what it said is in its log."""
    spawn_detached(until_empty=True)
    assert home().worker_log.exists()


def test_cancel_without_a_worker_is_done_by_tidy(tmp_path, start):
    """A trainer whose worker died is ended when asked, and left alone when not."""
    submit(tmp_path, planned("a", updates=10_000), planned("b"))
    worker = start()
    pid = running_pid(worker)
    worker.kill()
    tidy()
    assert is_alive(pid)
    assert states() == ["running", "queued"]
    with Store.open() as store:
        store.control.cancel([1])
    tidy()
    assert not is_alive(pid)
    assert states() == ["cancelled", "queued"]


def test_tidy_leaves_a_served_queue_alone(tmp_path, start):
    """Where a worker is, it does the work."""
    worker = start(until_empty=False)
    eventually(lambda: worker.events("waiting"))
    tidy()
    assert worker_alive() == worker.process.pid


def test_run_past_its_time_fails(tmp_path, start):
    """limits.run_wall: it checkpoints, and is not tried again."""
    submit(tmp_path, planned("a", updates=10_000), planned("b"), limits=Limits(run_wall_s=1.0))
    assert start().wait() == 0
    assert states() == ["failed", "completed"]
    assert attempts()[0].outcome == "timeout"
    assert "limits.run_wall" in runs()[0].reason


def test_worker_trains_within_its_hours_only(tmp_path):
    """Outside of them a run is checkpointed and put back; it goes on when they come again."""
    noon, night = datetime(2026, 1, 10, 12), datetime(2026, 1, 10, 23)
    now = [noon]
    gate = Gate(Hours(between=Window.parse("22:00-08:00")), Senses(now=lambda: now[0]))
    submit(tmp_path, planned("a", updates=8, update_s=0.3), planned("b"))
    seen = []

    def listen(event):
        seen.append(str(event.kind))
        if event.kind == "waiting":
            seen.append((event.text, serving_worker().waits, states()[0]))
            now[0] = night
        elif event.kind == "progress" and "stopping" not in seen:
            now[0] = noon

    assert worker_module.work(
        until_empty=True, trainer=FAKE, prewarm=False, on_event=listen, gate=gate
    ) == 0  # fmt: skip
    until = "until 22:00 (--between 22:00-08:00)"
    assert [row for row in seen if isinstance(row, tuple)] == [
        (f"waits {until}", until, "queued"),
        (f"waits {until}", until, "queued"),
    ]
    first, second = attempts()
    assert (first.outcome, first.exit_code, first.reason) == ("interrupted", 75, f"waits {until}")
    assert second.outcome == "completed"
    assert updates_logged(runs()[0]) == list(range(1, 9))
    assert states() == ["completed", "completed"]


def test_stalled_trainer_is_ended_and_tried_once_more(tmp_path, monkeypatch):
    """A GPU that never answers: the trainer is suspended, which heeds no TERM either."""
    monkeypatch.setitem(termination._GRACE_S, StopRequest.STALL, 0.5)
    said = "update 1 of 3"
    once = {"die": "2:SIGSTOP", "die_file": str(tmp_path / "died"), "say": said}
    submit(tmp_path, planned("a", **once), planned("b"), limits=Limits(stall_s=1.0))
    assert worker_module.work(until_empty=True, trainer=FAKE, prewarm=False) == 0
    assert states() == ["completed", "completed"]
    first, second = attempts()
    assert (first.outcome, first.signal, first.evidence) == ("stalled", "SIGKILL", said)
    assert re.fullmatch(r"stalled: not a line for \d+s, as when a GPU hangs", first.reason)
    assert second.outcome == "completed"
    assert updates_logged(runs()[0]) == [1, 2, 3]


def test_paused_trainer_that_stalls_is_ended_too(tmp_path, monkeypatch):
    """What was asked of it stands: the run is paused."""
    monkeypatch.setitem(termination._GRACE_S, StopRequest.STALL, 0.5)
    submit(tmp_path, planned("a", die="2:SIGSTOP"), limits=Limits(stall_s=1.0))

    def pause(event):
        if event.kind == "started":
            with Store.open() as store:
                store.control.pause([1])

    worker_module.work(until_empty=True, trainer=FAKE, prewarm=False, on_event=pause)
    assert states() == ["paused"]


@pytest.mark.parametrize("say", ["[lock] waiting for the GPU, held by pid 7 (mlx-grpo)", "stopped"])
def test_waiting_and_standing_still_are_not_training(tmp_path, start, say):
    """Neither fills limits.run_wall nor the recorded time: the trainer goes on and completes."""
    once = {"die": "2:SIGSTOP", "die_file": str(tmp_path / "died")}
    submit(tmp_path, planned("a", say=say, **once), limits=Limits(run_wall_s=1.5))
    worker = start()
    pid = running_pid(worker)
    eventually(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    # The worker notes the time every five seconds: one such note falls into the stop.
    stopped_at = time.monotonic()
    eventually(lambda: time.monotonic() - stopped_at > 6.0)
    assert states() == ["running"]
    assert attempts()[0].wall_s < 1.5
    os.kill(pid, signal.SIGKILL)
    assert worker.wait() == 0
    assert states() == ["completed"]
    assert runs()[0].wall_s < 3.0


@pytest.mark.parametrize("limits", [Limits(wall_s=0.2), Limits(disk_bytes=100)])
def test_sweep_past_its_limit_is_held_and_goes_on_when_resumed(tmp_path, start, limits):
    """limits.wall and limits.disk: the run is back in the queue, and nothing is lost."""
    submit(tmp_path, planned("a", updates=60), limits=limits)
    assert start().wait() == 0
    with Store.open() as store:
        sweep = store.queries.sweep("s")
        assert (sweep.state, states()) == ("paused", ["queued"])
        assert sweep.reason.startswith("limits.")
        store.control.resume_sweep(sweep.id)
    assert start().wait() == 0
    assert states() == ["completed"]
    assert updates_logged(runs()[0]) == list(range(1, 61))


def test_wait_for_the_gpu_is_told(tmp_path, start):
    """A trainer that waits says for whom; the worker passes it on."""
    line = "[lock] waiting for the GPU, held by pid 7 (mlx-grpo)"
    submit(tmp_path, planned("a", say=line, die="1:SIGSTOP"))
    worker = start()
    told = eventually(lambda: worker.events("waiting"))
    assert told[0]["text"] == "waiting for the GPU, held by pid 7 (mlx-grpo)"
    with Store.open() as store:
        store.control.cancel([1])
    insist(worker)
    assert worker.wait() == 75
    assert states() == ["cancelled"]


def test_missing_folder_of_the_submit_is_said(tmp_path, start):
    """A run whose folder of submit is gone fails with a word about the folder."""
    gone = tmp_path / "gone"
    submit(gone, planned("a"))
    assert start().wait() == 0
    (run,) = runs()
    assert (str(run.state), run.attempt) == ("failed", 1)
    assert f"{gone}: the folder from which the sweep was submitted is gone" in run.reason


def _text(path):
    return path.read_text() if path.exists() else ""
