"""The standby: real processes that wait for their turn, or for nobody any more."""

import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from orchestrator.plan.provenance import look
from orchestrator.queue.claims import Before
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode
from orchestrator.system.locks import is_held
from orchestrator.system.paths import home
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.standby import StandbySlot, affordable
from tests.queue_kit import (
    DEADLINE_S,
    FAKE,
    attempts,
    eventually,
    is_alive,
    plan_of,
    planned,
    runs,
    states,
    submit,
    updates_logged,
)
from tests.trainer_kit import FAST, assert_equal_runs, command


def short(name, **values):
    """A run whose time that is left is known (a log with updates_total), of some seconds."""
    return planned(name, **{"gain": 0.1, "updates": 8, "update_s": 0.2, **values})


def endless(name):
    """A run that ends only when the test lets it, and says all the while that it ends soon."""
    return short(name, updates=200, update_s=0.2)


def standby_pid(worker, count=1):
    """The pid of the count-th standby."""
    told = eventually(lambda: worker.events("prepared")[count - 1 : count])
    return int(told[0]["text"].removeprefix("standby (pid ").removesuffix(")"))


def only_log(run_id, n=1):
    """The text of an attempt's log, of which there is one header."""
    text = home().attempt_log(run_id, n).read_text()
    assert text.count("== attempt") == 1
    return text


def test_the_standby_trains_when_its_turn_comes(tmp_path, start):
    """The process that was prepared is the one that trains, with a log like any other's."""
    submit(tmp_path, short("a"), short("b"), short("c"))
    worker = start()
    assert worker.wait() == 0
    assert states() == ["completed"] * 3
    prepared = worker.events("prepared")
    assert [event["run"] for event in prepared] == [2, 3]
    for run in runs():
        (attempt,) = attempts(run.id)
        text = only_log(run.id)
        assert text.startswith(f"== attempt 1 of run {run.id}: ")
        assert "--prewarm" not in text
        assert updates_logged(run) == list(range(1, 9))
        if run.id > 1:
            assert attempt.pid == standby_pid(worker, run.id - 1)
    assert not home().standby_log("0").exists()


def test_switched_off_nothing_is_prepared(tmp_path, start):
    """Without it each trainer is started when its turn has come."""
    submit(tmp_path, short("a"), short("b"))
    worker = start(prewarm=False)
    assert worker.wait() == 0
    assert states() == ["completed"] * 2
    assert worker.events("prepared") == []


def test_a_run_with_much_time_left_has_no_standby(tmp_path, start):
    """Memory is not held for hours: 100 updates of 2 s are more than the head start."""
    submit(tmp_path, short("a", updates=100, update_s=2.0), short("b"))
    worker = start()
    eventually(lambda: worker.events("progress"))
    with Store.open() as store:
        store.control.cancel([1])
    assert worker.wait() == 0
    assert worker.events("prepared") == []


@pytest.mark.parametrize("how", ["cancel", "pause", "hold"])
def test_a_run_that_leaves_the_queue_leaves_the_slot(tmp_path, start, how):
    """Its trainer ends before its turn, the next run's takes its place, and it has run nothing."""
    submit(tmp_path, endless("a"), name="first")
    submit(tmp_path, short("b"), name="second")
    submit(tmp_path, short("c"), name="third")
    worker = start()
    pid = standby_pid(worker)
    with Store.open() as store:
        if how == "cancel":
            store.control.cancel([2])
        elif how == "pause":
            store.control.pause([2])
        else:
            store.holds.hold_sweep(2, HoldCode.USER, "by a test")
    other = standby_pid(worker, 2)
    assert not is_alive(pid)
    assert worker.events("prepared")[1]["run"] == 3
    assert not is_held(home().run_lock(2))
    with Store.open() as store:
        store.control.cancel([1])
    assert worker.wait() == 0
    assert states() == ["cancelled", {"cancel": "cancelled"}.get(how, _left(how)), "completed"]
    assert attempts(2) == []
    assert attempts(3)[0].pid == other
    assert not (tmp_path / "out/b").exists()


def _left(how):
    return "paused" if how == "pause" else "queued"


def test_a_run_that_is_moved_first_becomes_the_standby(tmp_path, start):
    """The order of the queue is what counts, also when it changes late."""
    submit(tmp_path, endless("a"), short("b"), short("c"))
    worker = start()
    pid = standby_pid(worker)
    with Store.open() as store:
        store.control.move_first([3])
    other = standby_pid(worker, 2)
    assert not is_alive(pid)
    with Store.open() as store:
        store.control.cancel([1])
    assert worker.wait() == 0
    assert states() == ["cancelled", "completed", "completed"]
    assert attempts(3)[0].pid == other
    assert runs()[1].started > runs()[2].started


def test_a_dead_standby_costs_its_run_nothing(tmp_path, start):
    """Killed before its turn: another is started in the same attempt, and no death is counted."""
    submit(tmp_path, endless("a"), short("b"))
    worker = start()
    pid = standby_pid(worker)
    os.kill(pid, signal.SIGKILL)
    with Store.open() as store:
        store.control.cancel([1])
    assert worker.wait() == 0
    assert states() == ["cancelled", "completed"]
    (attempt,) = attempts(2)
    assert (attempt.n, attempt.outcome) == (1, "completed")
    assert attempt.pid != pid
    only_log(2)


def test_it_ends_with_the_worker(tmp_path, start):
    """Killed or asked to stop, a worker leaves no standby, and the next one starts anew."""
    submit(tmp_path, endless("a"), short("b"))
    first = start()
    pid = standby_pid(first)
    first.kill()
    eventually(lambda: not is_alive(pid))
    eventually(lambda: not is_held(home().run_lock(2)))
    second = start()
    pid = standby_pid(second)
    second.signal(signal.SIGTERM)
    assert second.wait() == 75
    assert not is_alive(pid)
    assert states() == ["queued", "queued"]
    assert attempts(2) == []


def test_worker_killed_before_it_lets_the_trainer_go(tmp_path, start):
    """Recorded but not told to train: it ends by itself, and its run is only put back."""
    submit(tmp_path, short("a"), short("b"))
    dying = start(GRPO_SWEEP_CRASH_AT="worker.standby")
    assert dying.wait() == -signal.SIGKILL
    pid = standby_pid(dying)
    eventually(lambda: not is_alive(pid))
    assert attempts(2)[0].pid == pid
    assert start().wait() == 0
    assert states() == ["completed", "completed"]
    assert [a.outcome for a in attempts(2)] == ["lost", "completed"]
    assert updates_logged(runs()[1]) == list(range(1, 9))


def test_what_has_changed_since_the_submit_is_read_anew(tmp_path, start):
    """A data set that changed while the standby waited: reported, and not trained on."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "1+1", "answer": "2"}\n')
    submit(tmp_path, endless("a"), name="first")
    submit(tmp_path, short("b"), name="second")
    worker = start()
    pid = standby_pid(worker)
    # What is frozen is compared at the launch, which writes it to the attempt's log.
    home().attempt_log(2, 1).write_text("[frozen] rows.jsonl has changed\n")
    with Store.open() as store:
        store.control.cancel([1])
    assert worker.wait() == 0
    assert states() == ["cancelled", "completed"]
    assert attempts(2)[0].pid != pid
    assert "[frozen]" in only_log(2)


def test_a_trainer_that_took_the_place_of_a_standby_can_be_adopted(tmp_path, start):
    """Its worker dies before it has noted its pid; the next one finds it and can stop it."""
    submit(tmp_path, endless("a"), name="first")
    submit(tmp_path, endless("b"), name="second")
    dying = start(GRPO_SWEEP_CRASH_AT="launcher.spawned:2")
    standby_pid(dying)
    home().attempt_log(2, 1).write_text("[frozen] rows.jsonl has changed\n")
    with Store.open() as store:
        store.control.cancel([1])
    assert dying.wait() == -signal.SIGKILL
    second = start()
    eventually(lambda: second.events("adopted"))
    with Store.open() as store:
        store.control.cancel([2])
    assert second.wait() == 0
    assert states() == ["cancelled", "cancelled"]


# --- the slot alone


@pytest.fixture
def coming(tmp_path):
    """A run that waits, and its sweep, which reads rows.jsonl."""
    (tmp_path / "rows.jsonl").write_text("{}\n")
    plan = plan_of(tmp_path, short("a"))
    known = look(str(tmp_path), ["rows.jsonl"])
    with Store.open(home().db) as store:
        store.submissions.add_sweep("s", lambda name: replace(plan, provenance=known))
        run = store.queries.runs()[0]
        return run, store.queries.sweep_of(run)


def claimed():
    """The run and its first attempt."""
    before = Before(-1, None, str(home().attempt_log(1, 1)))
    with Store.open() as store:
        return store.claims.claim("host", "boot", lambda run: before)


def test_a_file_that_was_another_meanwhile_is_read_anew(tmp_path, coming):
    """Changed and changed back while the trainer prepared itself: nobody knows what it has read."""
    slot = StandbySlot(home(), FAKE)
    pid = slot.put(*coming)
    before = (tmp_path / "rows.jsonl").read_text()
    (tmp_path / "rows.jsonl").write_text('{"other": 1}\n')
    (tmp_path / "rows.jsonl").write_text(before)
    assert slot.take(*claimed(), coming[1]) is None
    assert not is_alive(pid)
    assert not is_held(home().run_lock(1))


def test_one_that_dies_when_it_is_let_go_leaves_nothing(coming):
    """Not even its log, to which the one that takes its place would add its own."""
    slot = StandbySlot(home(), FAKE)
    pid = slot.put(*coming)
    run, attempt = claimed()
    standby = slot.take(run, attempt, coming[1])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    assert standby.go(attempt) is None
    assert list((home().root / "logs").iterdir()) == []
    assert not is_held(home().run_lock(1))


def test_a_dead_one_is_dismissed_with_its_children(coming):
    """Such as a library may start."""
    code = "import subprocess as s; print(s.Popen(['sleep', '600']).pid, flush=True); input()"
    slot = StandbySlot(home(), (sys.executable, "-c", code))
    pid = slot.put(*coming)
    said = eventually(lambda: home().standby_log("0").read_text().splitlines()[1:])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    assert slot.take(*claimed(), coming[1]) is None
    eventually(lambda: not is_alive(int(said[0])))


def test_a_lock_that_cannot_be_made_leaves_the_slot_empty(coming):
    """Nobody is prepared, and the worker goes on with the trainer that runs."""
    home().run_lock(1).mkdir()
    slot = StandbySlot(home(), FAKE)
    assert slot.put(*coming) is None
    assert slot.holds(None)


def test_memory_decides_where_nobody_says(monkeypatch):
    """On from 16 GB of memory, which a system tells a little short."""
    import psutil

    told = psutil.virtual_memory()
    for gib, enough in ((8, False), (15, False), (15.6, True), (16, True), (64, True)):
        size = told._replace(total=int(gib * 2**30))
        monkeypatch.setattr(psutil, "virtual_memory", lambda size=size: size)
        assert affordable() is enough


# --- the real trainer


def real(name, folder, seed, **values):
    """A short run of the real trainer on the embedded model."""
    settings = {**FAST, "max_train_samples": 16, "seed": seed, **values}
    return planned(name, **settings)


@pytest.mark.parametrize("prewarm", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_real_trainers_write_the_same_with_and_without_prewarming(tmp_path, start, prewarm):
    """Two runs each: files and logs of the second equal those of a trainer started by hand."""
    submit(tmp_path, real("a", "a", 0), real("b", "b", 1))
    worker = start(trainer=TRAINER, prewarm=prewarm)
    assert worker.wait() == 0, worker.text
    assert states() == ["completed"] * 2
    if prewarm:
        assert attempts(2)[0].pid == standby_pid(worker)
    words = [word for item in runs()[1].set for word in ("--set", item)]
    by_hand = [*TRAINER, *words, "--set", "output_dir=by-hand", "--strict"]
    config = home().frozen_config(1)
    done = subprocess.run([*by_hand, "--config", str(config)], cwd=tmp_path, check=False)
    assert done.returncode == 0
    assert_equal_runs(tmp_path / "out/b", tmp_path / "by-hand")


def _prepared(folder, **fields):
    """A real standby, which holds its stdin's other end."""
    return subprocess.Popen(
        command(folder, "--strict", "--prewarm", **fields),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_a_standby_touches_nothing(tmp_path):
    """No folder, no GPU lock, and the end of stdin is its end, whatever it does just then."""
    trainer = _prepared(tmp_path / "out")
    trainer.stdin.close()
    assert trainer.wait(DEADLINE_S) == 75
    assert not (tmp_path / "out").exists()
    assert not os.path.exists(os.environ["GRPO_GPU_LOCK"])


def test_the_stdin_of_a_standby_is_the_workers_alone(tmp_path):
    """What asks or is started meanwhile finds an empty stdin, and never takes the call."""
    trainer = _prepared(tmp_path / "out", max_train_samples=2)
    eventually(lambda: _stdin_of(trainer.pid) == "/dev/null")
    _, err = trainer.communicate(b"go\n", DEADLINE_S)
    assert trainer.returncode == 0, err


def _stdin_of(pid):
    if sys.platform == "linux":
        return os.readlink(f"/proc/{pid}/fd/0")
    found = subprocess.run(["lsof", "-a", "-p", str(pid), "-d", "0", "-Fn"], capture_output=True)
    return found.stdout.decode().rpartition("\nn")[2].strip()


def test_a_standby_loads_no_reward_of_the_users(tmp_path):
    """It may bring a model along, and the GPU is another trainer's: not before its turn."""
    reward = tmp_path / "mine.py"
    reward.write_text(
        "import os\n"
        f"print('its turn:', os.path.exists({str(tmp_path / 'out')!r}), flush=True)\n"
        "def reward(completions, **kwargs):\n"
        "    return [0.0] * len(completions)\n"
    )
    trainer = _prepared(tmp_path / "out", rewards=[f"{reward}:reward"], max_train_samples=2)
    _, err = trainer.communicate(b"go\n", DEADLINE_S)
    assert trainer.returncode == 0, err
    assert err.count(b"its turn: True") == 1


def test_a_trainer_without_stdout_ends_as_any_other(tmp_path):
    """Closed by whoever started it: exit code 0 all the same."""
    words = command(tmp_path / "out", max_train_samples=2)
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *words], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stopped_standby_says_that_it_can_go_on(tmp_path):
    """SIGTERM while it waits: exit code 75, and no verdict in a folder that is not its own."""
    trainer = _prepared(tmp_path / "out")
    eventually(lambda: trainer.stderr.readline().startswith(b"[config] loading"))
    trainer.send_signal(signal.SIGTERM)
    assert trainer.wait(DEADLINE_S) == 75
    assert not (tmp_path / "out").exists()


def test_what_fails_in_a_standby_is_reported_at_its_turn(tmp_path):
    """A data set that is not there: the usual message, exit code and result.json, once."""
    trainer = _prepared(tmp_path / "out", dataset="nowhere.jsonl")
    _, err = trainer.communicate(b"go\n", DEADLINE_S)
    assert trainer.returncode == 3
    assert err.decode().count("nowhere.jsonl") == 1
    assert (tmp_path / "out/result.json").exists()
