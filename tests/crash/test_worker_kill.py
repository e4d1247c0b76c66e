"""kill -9 of worker, trainer and both, at every named point and in between; and reboots.

What must hold is the crash table in docs/crash-table.md: nothing lost, run twice or finished twice.
"""

import os
import random
import signal
import subprocess
import sys
from collections import Counter

import pytest

from orchestrator.queue.store import Store
from orchestrator.run import Retry
from orchestrator.system.crashpoints import NODE_POINTS, POINTS, SEARCH_POINTS, STANDBY_POINTS
from tests.queue_kit import (
    TESTS,
    attempts,
    eventually,
    is_alive,
    kill_group,
    planned,
    running_attempt,
    runs,
    states,
    submit,
    trainers_started,
    updates_logged,
)

PATIENT = Retry(max=1000)


def trained(run):
    """Whether a run's trainer has logged something."""
    return (run.folder / "training_log.jsonl").exists()


def check_all_completed_once(tmp_path, n):
    """The end state of every storm: each run completed exactly once, nothing left over."""
    found = runs()
    assert [str(run.state) for run in found] == ["completed"] * n
    for run in found:
        made = attempts(run.id)
        assert [a.n for a in made] == list(range(1, len(made) + 1))
        assert [a.outcome for a in made].count("completed") == 1
        assert all(a.ended for a in made)
        logged = updates_logged(run)
        assert logged == list(range(1, len(logged) + 1))
    assert not any(is_alive(pid) for pid in trainers_started(tmp_path))


def test_worker_killed_and_trainer_goes_on(tmp_path, start):
    """The next worker adopts the live trainer; no run is started twice."""
    submit(tmp_path, planned("a", updates=30, update_s=0.05), planned("b"))
    first = start()
    attempt = eventually(running_attempt)
    eventually(lambda: trained(runs()[0]))
    # It must not be done before the second worker has come up, which takes long on a busy machine.
    os.kill(attempt.pid, signal.SIGSTOP)
    first.kill()
    assert is_alive(attempt.pid)
    second = start()
    assert eventually(lambda: second.events("adopted"))[0]["run"] == 1
    os.kill(attempt.pid, signal.SIGCONT)
    assert second.wait() == 0
    check_all_completed_once(tmp_path, 2)
    assert len(trainers_started(tmp_path)) == 2
    assert [len(attempts(run.id)) for run in runs()] == [1, 1]


def test_result_written_while_no_worker_lived_is_collected(tmp_path, start):
    """A trainer that ended alone is completed by the next worker, and not run again."""
    submit(tmp_path, planned("a", updates=10, update_s=0.05))
    first = start()
    attempt = eventually(running_attempt)
    first.kill()
    eventually(lambda: not is_alive(attempt.pid))
    assert states() == ["running"]
    assert start().wait() == 0
    check_all_completed_once(tmp_path, 1)
    assert len(trainers_started(tmp_path)) == 1
    assert attempts()[0].evidence == "result.json: completed"


@pytest.mark.parametrize("boot", ["", "another-boot"])
def test_worker_and_trainer_killed(tmp_path, start, boot):
    """Killed together, or by a reboot, the run goes on from its checkpoint as attempt 2."""
    submit(tmp_path, planned("a", updates=30, update_s=0.03))
    first = start()
    attempt = eventually(running_attempt)
    eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
    first.kill()
    kill_group(attempt.pid)
    assert start(GRPO_SWEEP_BOOT_ID=boot).wait() == 0
    check_all_completed_once(tmp_path, 1)
    lost, done = attempts()
    assert (lost.outcome, done.outcome) == ("lost", "completed")
    assert ("restarted" in lost.reason) == bool(boot)
    assert done.checkpoint >= 2


def test_trainer_killed_under_a_live_worker(tmp_path, start):
    """A killed trainer is started again from its checkpoint by the same worker."""
    submit(tmp_path, planned("a", updates=30, update_s=0.03))
    worker = start()
    attempt = eventually(running_attempt)
    eventually(lambda: (tmp_path / "out/a/checkpoint-2").exists())
    kill_group(attempt.pid)
    assert worker.wait() == 0
    check_all_completed_once(tmp_path, 1)
    assert [a.signal for a in attempts()] == ["SIGKILL", None]


def test_child_that_outlives_the_trainer_is_killed_before_the_next_start(tmp_path, start):
    """A dead trainer's child holds the run's lock; it goes before anything else is trained."""
    submit(tmp_path, planned("a", updates=30, update_s=0.03, child=True))
    first = start()
    attempt = eventually(running_attempt)
    child = int(eventually(lambda: _text(tmp_path / "out/a/child")))
    eventually(lambda: (tmp_path / "out/a/checkpoint-1").exists())
    first.kill()
    os.kill(attempt.pid, signal.SIGKILL)
    assert is_alive(child)
    assert start().wait() == 0
    check_all_completed_once(tmp_path, 1)
    assert not is_alive(child)


@pytest.mark.parametrize("point", [p for p in POINTS if p != "store.adding"])
@pytest.mark.parametrize("time", [1, 2])
def test_worker_killed_at_a_named_point(tmp_path, start, point, time):
    """Wherever the worker dies, the next one finishes the queue, each run exactly once."""
    submit(tmp_path, planned("a", updates=4), planned("b", updates=4), retry=PATIENT)
    dying = start(GRPO_SWEEP_CRASH_AT=f"{point}:{time}")
    assert dying.wait() == -signal.SIGKILL
    assert start().wait() == 0
    check_all_completed_once(tmp_path, 2)


def test_result_of_an_earlier_attempt_is_never_taken_for_a_new_one(tmp_path, start):
    """An attempt that died before its trainer began is lost, whatever lies in the folder."""
    submit(tmp_path, planned("a", updates=10_000), retry=PATIENT)
    worker = start()
    eventually(lambda: trained(runs()[0]))
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 75
    assert (tmp_path / "out/a/result.json").exists()
    assert start(GRPO_SWEEP_CRASH_AT="launcher.locked").wait() == -signal.SIGKILL
    with Store.open() as store:
        store.control.cancel([1])
    assert start().wait() == 0
    assert [a.outcome for a in attempts()] == ["interrupted", "lost"]
    assert states() == ["cancelled"]


def test_trainer_whose_pid_was_never_recorded_can_be_cancelled(tmp_path, start):
    """The worker died between start and record: the next finds the trainer and ends it."""
    submit(tmp_path, planned("a", updates=10_000))
    dying = start(GRPO_SWEEP_CRASH_AT="launcher.spawned")
    assert dying.wait() == -signal.SIGKILL
    (attempt,) = attempts()
    assert attempt.pid is None
    (pid,) = eventually(lambda: trainers_started(tmp_path))
    with Store.open() as store:
        store.control.cancel([1])
    assert start().wait() == 0
    assert states() == ["cancelled"]
    assert not is_alive(pid)


_SUBMIT = """
import sys
from tests.queue_kit import planned, submit
submit(sys.argv[1], planned("a"), planned("b"))
"""


def test_submit_killed_before_its_commit_queues_nothing(tmp_path):
    """Half a sweep is never seen."""
    submit(tmp_path, planned("z"), name="before")
    done = subprocess.run(
        [sys.executable, "-c", _SUBMIT, str(tmp_path)],
        cwd=TESTS.parent,
        env={**os.environ, "GRPO_SWEEP_CRASH_AT": "store.adding"},
    )
    assert done.returncode == -signal.SIGKILL
    with Store.open(readonly=True) as store:
        assert [s.name for s in store.queries.sweeps(all=True)] == ["before"]
    assert len(runs()) == 1


_CLAIM_ALL = """
import sys, time
from orchestrator.run import Outcome, Progress, Verdict
from orchestrator.queue.store import Store
from tests.queue_kit import nothing_before
done = Outcome(Verdict.COMPLETED, "completed", None, 0)
with Store.open() as store:
    while store.queries.waiting("boot").queued or store.queries.running():
        claimed = store.claims.claim("host", "boot", nothing_before)
        if claimed is None:
            time.sleep(0.001)
            continue
        run, attempt = claimed
        print(run.id, flush=True)
        store.claims.finish(attempt, done, newer_checkpoint=False, progress=Progress())
"""


def test_eight_processes_claiming_at_once(tmp_path):
    """No run is claimed twice, none is left, and nobody meets an error."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(80)))
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", _CLAIM_ALL], cwd=TESTS.parent, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    claimed = [int(x) for p in claimers for x in p.communicate(timeout=60)[0].split()]
    assert [p.returncode for p in claimers] == [0] * 8
    assert sorted(claimed) == list(range(1, 81))
    assert states() == ["completed"] * 80


def storm(tmp_path, start, n_runs, kills, seed, updates=6):
    """Kill worker, trainer or both at random moments until the queue is empty anyway."""
    draw = random.Random(seed)
    submit(tmp_path, *(planned(f"r{i}", updates=updates) for i in range(n_runs)), retry=PATIENT)
    counts = Counter()
    worker = start()
    for _ in range(kills):
        try:
            worker.process.wait(draw.uniform(0.0, 0.6))
            break
        except subprocess.TimeoutExpired:
            pass
        who = draw.choice(["worker", "trainer", "both", "reboot"])
        attempt = running_attempt()
        if who != "trainer":
            worker.kill()
        if who != "worker" and attempt is not None:
            kill_group(attempt.pid)
        counts[who] += 1
        if who == "reboot":
            # Everything dies, also a trainer whose pid was never recorded.
            for pid in trainers_started(tmp_path):
                kill_group(pid)
        if who != "trainer":
            worker = start(GRPO_SWEEP_BOOT_ID=f"boot-{counts['reboot']}")
    print(f"storm: seed {seed}, {dict(counts)}")
    assert worker.process.wait(600) == 0
    check_all_completed_once(tmp_path, n_runs)
    return counts


def test_small_storm(tmp_path, start):
    """A few random kills: each run still completes exactly once."""
    counts = storm(tmp_path, start, n_runs=4, kills=10, seed=1)
    assert sum(counts.values()) >= 1, "the queue was empty before anything was killed"


@pytest.mark.storm
def test_storm(tmp_path, start):
    """More than a hundred random kills over twenty runs: each completes exactly once."""
    counts = storm(tmp_path, start, n_runs=20, kills=120, seed=2, updates=150)
    assert sum(counts.values()) >= 100


def _text(path):
    return path.read_text() if path.exists() else ""


def test_crash_table_names_every_point():
    """The published table and the points of the code are the same."""
    table = (TESTS.parent / "docs" / "crash-table.md").read_text()
    points = (*POINTS, *SEARCH_POINTS, *STANDBY_POINTS, *NODE_POINTS)
    assert [point for point in points if f"`{point}`" not in table] == []
