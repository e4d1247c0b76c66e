"""Several runs at a time: real workers, real (fake) trainers, and deaths among them."""

import json
import signal

import pytest

from orchestrator.queue.store import Store
from orchestrator.run import Limits, Retry
from orchestrator.system.paths import home
from orchestrator.worker import monitor
from orchestrator.worker.detach import ask_to_stop, spawn_detached
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.serving import serving_worker
from orchestrator.worker.slots import Slots
from orchestrator.worker.worker import work
from tests.queue_kit import (
    FAKE,
    attempts,
    eventually,
    is_alive,
    kill_group,
    planned,
    running_attempts,
    runs,
    states,
    submit,
    updates_logged,
)
from tests.trainer_kit import FAST, assert_equal_runs


def in_slots(*names):
    """The attempts that run, once exactly these slots have one."""
    return eventually(lambda: found if (found := running_attempts()).keys() == {*names} else None)


def long(name, **values):
    """A run that lasts until it is stopped."""
    return planned(name, updates=100_000, update_s=0.05, **values)


def test_two_slots_train_two_runs_at_a_time(tmp_path):
    """Each run once, each in a slot; two run together, and nobody says that one slot waits."""
    submit(tmp_path, *(planned(name, update_s=0.1) for name in "abcde"))
    said, most = [], []

    def heard(event):
        said.append(event.kind)
        most.append(len(running_attempts()))
        assert event.kind == "empty" or serving_worker().slots == ("0", "1")

    assert work(until_empty=True, trainer=FAKE, slots=Slots(2), on_event=heard) == 0
    assert states() == ["completed"] * 5
    assert {attempts(run.id)[0].slot for run in runs()} == {"0", "1"}
    assert all(updates_logged(run) == [1, 2, 3] for run in runs())
    assert [run.slot for run in runs()] == [None] * 5
    assert max(most) == 2
    assert "waiting" not in said


def test_each_device_is_seen_by_the_trainer_of_its_slot_alone(tmp_path, start):
    """By CUDA's own variable; the slots are called as the devices are."""
    submit(tmp_path, long("a"), long("b"))
    worker = start(devices="3,1")
    for slot, attempt in in_slots("1", "3").items():
        with open(f"/proc/{attempt.pid}/environ", "rb") as file:
            assert f"\0CUDA_VISIBLE_DEVICES={slot}\0".encode() in file.read()
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 75
    assert states() == ["queued", "queued"]
    assert [attempt.outcome for n in (1, 2) for attempt in attempts(n)] == ["interrupted"] * 2


def test_a_paused_slot_gives_its_run_to_the_next_that_is_free(tmp_path, start):
    """The other trains on; until it is resumed the slot takes nothing."""
    submit(tmp_path, long("a"), long("b"))
    worker = start(slots=2)
    before = in_slots("0", "1")
    with Store.open() as store:
        (asked,) = store.control.pause_slot("1", ())
        assert asked.id == before["1"].run_id
    assert in_slots("0")["0"].pid == before["0"].pid
    assert sorted(states()) == ["queued", "running"]
    with Store.open() as store:
        store.control.cancel([before["0"].run_id])
    eventually(lambda: running_attempts().get("0", before["0"]).run_id == asked.id)
    with Store.open() as store:
        store.control.cancel([asked.id])
    assert worker.wait() == 0
    assert states() == ["cancelled", "cancelled"]


def test_all_slots_paused_is_nothing_to_wait_for(tmp_path):
    """`--until-empty` ends, and says what stands in the way."""
    submit(tmp_path, planned("a"))
    with Store.open() as store:
        store.control.pause_slot("0", ["0"])
    assert work(until_empty=True, trainer=FAKE) == 0
    assert states() == ["queued"]
    with Store.open() as store:
        assert "slot 0 is paused" in store.queries.waiting("boot").held


def test_the_next_worker_takes_over_all_slots_and_those_that_it_has_not(tmp_path, start):
    """kill -9 of the worker hurts no trainer; one slot then trains what comes next."""
    submit(tmp_path, *(planned(name, updates=30, update_s=0.1) for name in "abc"), planned("d"))
    first = start(slots=3)
    before = in_slots("0", "1", "2")
    first.kill()
    assert all(is_alive(attempt.pid) for attempt in before.values())
    said = []
    assert work(until_empty=True, trainer=FAKE, on_event=said.append) == 0
    adopted = [event.run.id for event in said if event.kind == "adopted"]
    assert states() == ["completed"] * 4
    assert sorted(adopted) == [1, 2, 3]
    assert [len(attempts(n)) for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    assert attempts(4)[0].slot == "0"
    assert [updates_logged(run) for run in runs()][:3] == [list(range(1, 31))] * 3


def test_a_trainer_that_dies_leaves_the_other_slot_alone(tmp_path, start):
    """Its run goes on from its checkpoint, in whichever slot; the other has one attempt."""
    submit(tmp_path, *(planned(name, updates=40, update_s=0.05) for name in "ab"))
    worker = start(slots=2)
    before = in_slots("0", "1")
    eventually(lambda: list((tmp_path / "out").glob("*/checkpoint-2")))
    kill_group(before["1"].pid)
    assert worker.wait() == 0, worker.text
    assert states() == ["completed", "completed"]
    tried = {run.id: len(attempts(run.id)) for run in runs()}
    assert tried == {before["0"].run_id: 1, before["1"].run_id: 2}


def test_an_error_in_one_slot_ends_the_worker_and_leaves_all_trainers(tmp_path, start):
    """They train on, and the next worker takes them over."""
    submit(tmp_path, *(planned(name, updates=30, update_s=0.1) for name in "ab"), planned("c"))
    dying = start(slots=2)
    before = in_slots("0", "1")
    # What no program of ours writes: nobody is prepared for it.
    with Store.open() as store, store._db.write():
        sql = "UPDATE runs SET request = 'nonsense' WHERE id = ?"
        store._db.execute(sql, (before["1"].run_id,))
    assert dying.wait() == 1
    assert all(is_alive(attempt.pid) for attempt in before.values())
    with Store.open() as store, store._db.write():
        store._db.execute("UPDATE runs SET request = NULL")
    said = []
    assert work(until_empty=True, trainer=FAKE, slots=Slots(2), on_event=said.append) == 0
    adopted = [event.run.id for event in said if event.kind == "adopted"]
    assert states() == ["completed"] * 3
    assert sorted(adopted) == [1, 2]
    assert [len(attempts(n)) for n in (1, 2, 3)] == [1, 1, 1]


def test_what_all_slots_train_counts_for_the_limit_of_a_sweep(tmp_path, monkeypatch):
    """Two runs of more than a second each reach two: both stop, and the sweep is held once."""
    monkeypatch.setattr(monitor, "_NOTE_S", 0.2)
    submit(tmp_path, long("a"), long("b"), limits=Limits(wall_s=2.0))
    assert work(until_empty=True, trainer=FAKE, slots=Slots(2)) == 0
    assert states() == ["queued", "queued"]
    with Store.open(readonly=True) as store:
        (sweep,) = store.queries.sweeps()
        trained = store.queries.trained_s(sweep.id)
        held = store._db.read("SELECT count(*) FROM events WHERE kind = 'held'")[0][0]
    assert (str(sweep.hold_code), held) == ("wall", 1)
    each = [attempts(n)[0].wall_s for n in (1, 2)]
    assert trained >= 2.0
    assert max(each) < 2.0


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_reaches_every_slot(tmp_path, start, signals):
    """All checkpoint; a second signal does not wait for that."""
    deaf = {} if signals == 1 else {"deaf": "true"}
    submit(tmp_path, *(long(name, **deaf) for name in "ab"))
    worker = start(slots=2)
    before = in_slots("0", "1")
    eventually(lambda: len(list((tmp_path / "out").glob("*/training_log.jsonl"))) == 2)
    for n in range(1, signals + 1):
        worker.signal(signal.SIGINT)
        eventually(lambda n=n: len(worker.events("stopping")) == 2 * n)
    if signals == 2:
        worker.signal(signal.SIGINT)
    assert worker.wait() == 75
    assert states() == ["queued", "queued"]
    assert not any(is_alive(attempt.pid) for attempt in before.values())


def test_each_slot_prepares_another_run(tmp_path):
    """And takes the one that it has prepared: nobody gets ready for nothing."""
    near = {"gain": 0.1, "updates": 12, "update_s": 0.1}
    submit(tmp_path, *(planned(name, **near) for name in "abcd"))
    said = []
    slots = Slots(2)
    assert (
        work(until_empty=True, trainer=FAKE, prewarm=True, slots=slots, on_event=said.append) == 0
    )
    assert states() == ["completed"] * 4
    prepared = {e.run.id: e.text for e in said if e.kind == "prepared"}
    assert prepared.keys() >= {3, 4}
    for run_id in (3, 4):
        assert prepared[run_id] == f"standby (pid {attempts(run_id)[0].pid})"
    assert not list((home().root / "logs").glob("standby*"))


def test_a_slot_pauses_by_its_name(say, folder):
    """One that no worker has is refused, with those that there are."""
    assert say("pause", "--slot", "0")[0] == 3
    code, _, err = say("pause", "--slot", "1", "--queue")
    assert (code, "name what to pause: a run, a range, a sweep, @, one --slot" in err) == (2, True)
    pid = spawn_detached(slots=Slots(2))
    try:
        assert serving_worker().slots == ("0", "1")
        assert "no such slot; there are 0, 1" in say("pause", "--slot", "7")[2]
        assert say("pause", "--slot", "1")[0] == 0
        shown = json.loads(say("status", "--json")[1])["slots"]
        assert shown == [
            {"slot": "0", "paused": False, "run": None},
            {"slot": "1", "paused": True, "run": None},
        ]
        out = say("submit", "lr.toml") and say()[1]
        assert "worker runs" in out
        assert "2 slots" in out
        assert "slot 1 paused; go on with: grpo-sweep resume --slot 1" in out
        assert say("resume", "--slot", "1")[0] == 0
        assert say("resume", "--slot", "1")[0] == 3
    finally:
        ask_to_stop(pid)


@pytest.mark.parametrize("point", ["store.claimed:3", "launcher.spawned:2", "store.finishing:2"])
def test_a_worker_killed_between_two_slots_loses_nothing(tmp_path, start, point):
    """Wherever it dies, each run is completed once, and each update logged once."""
    submit(tmp_path, *(planned(n, updates=6) for n in "abcd"), retry=Retry(max=1000))
    assert start(slots=2, GRPO_SWEEP_CRASH_AT=point).wait() == -signal.SIGKILL
    assert work(until_empty=True, trainer=FAKE, slots=Slots(2)) == 0
    assert states() == ["completed"] * 4
    for run in runs():
        assert updates_logged(run) == [1, 2, 3, 4, 5, 6]
        assert [a.outcome for a in attempts(run.id)].count("completed") == 1


@pytest.mark.slow
def test_real_runs_in_two_slots_write_what_they_write_in_one(tmp_path, monkeypatch):
    """To the last bit; a trainer has as many threads in both."""
    monkeypatch.setenv("GRPO_THREADS", "1")
    for name, slots in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        settings = {**FAST, "max_train_samples": 8}
        seeds = (planned(f"s{seed}", **settings, seed=seed) for seed in (0, 1))
        submit(folder, *seeds, name=name)
        # By their own folder: equal settings share a result otherwise.
        with Store.open() as store, store._db.write():
            store._db.execute("UPDATE runs SET identity = NULL, same_as = NULL")
        assert work(until_empty=True, trainer=TRAINER, slots=Slots(slots)) == 0
    assert states() == ["completed"] * 4
    for seed in (0, 1):
        assert_equal_runs(tmp_path / f"one/out/s{seed}", tmp_path / f"two/out/s{seed}")
