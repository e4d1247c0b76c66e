"""A sweep of real training runs under kill -9: what comes out is what an undisturbed one makes.

The trainer is the real one on the embedded model. Worker, trainer or both are killed at random
moments and started again, more than a hundred times; see docs/crash-table.md.
"""

import json
import os
import random
import subprocess
import time
from collections import Counter

import psutil
import pytest

from orchestrator.queue.store import Store
from orchestrator.run import Plan, PlannedRun, Retry
from orchestrator.system.paths import ENV_HOME, home
from orchestrator.worker.launcher import ENV_ATTEMPT, TRAINER
from tests.queue_kit import WorkerProcess, attempts, kill_group, runs, updates_logged
from tests.trainer_kit import FAST, assert_equal_runs

UPDATES = 8
# Eight updates of two prompts; a checkpoint after each second one; one tiny evaluation.
SETTINGS = {
    **FAST,
    **{"max_train_samples": 16, "num_epochs": 1, "batch_size": 2},
    **{"gradient_accumulation_steps": 1, "max_new_tokens": 16, "save_steps": 2},
    **{"eval_steps": 4, "eval_samples": 2, "eval_every_updates": 0},
}
CONFIG = "".join(f"{key} = {json.dumps(value)}\n" for key, value in SETTINGS.items())
LAST_S = 1800


def submit_real(cwd, n):
    """Queue n runs that differ in rate, method and seed, in the home that the environment names."""
    cwd.mkdir()

    def run(i):
        values = {"learning_rate": 1e-3 * (1 + i % 3), "lora_rank": (2, 4)[i % 2]}
        folder = f"out/r{i}"
        own = {**values, "seed": i, "run_name": f"r{i}", "output_dir": folder}
        return PlannedRun(f"r{i}", i, values, tuple(f"{k}={v}" for k, v in own.items()), folder)

    planned = tuple(run(i) for i in range(n))
    with Store.open(home().db) as store:
        store.submissions.add_sweep(
            "storm",
            lambda name: Plan(
                name, CONFIG, "storm.toml", "", str(cwd), planned, retry=Retry(max=1000)
            ),
        )


def undisturbed(cwd, n, log):
    """The folder of the same sweep, never disturbed; and the seconds that a run took."""
    submit_real(cwd, n)
    began = time.monotonic()
    worker = WorkerProcess(log, trainer=TRAINER)
    assert worker.process.wait(LAST_S) == 0, worker.text
    assert [str(run.state) for run in runs()] == ["completed"] * n
    return cwd, (time.monotonic() - began) / n


def processes_of(root):
    """Every trainer, or child of one, that belongs to the queue in `root`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(ENV_ATTEMPT, "").startswith(f"{root}#"):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def kill_at_random(start, n, kills, draw, run_s):
    """Kill and start again `kills` times; the counts, and the worker that lives at the end."""
    counts = Counter()
    worker = start()
    for i in range(kills):
        # So that the queue is not empty before the last kill: slower runs, shorter waits.
        done = sum(run.state == "completed" for run in runs())
        ahead = done / n > i / kills
        try:
            worker.process.wait(draw.uniform(0.0, run_s * (0.3 if ahead else 1.3)))
            break
        except subprocess.TimeoutExpired:
            pass
        who = draw.choice(["worker", "trainer", "both"])
        with Store.open(readonly=True) as store:
            run = next(iter(store.queries.running()), None)
            attempt = run and store.queries.attempts(run.id)[-1]
        if who != "trainer":
            worker.kill()
        if who != "worker" and attempt and attempt.pid:
            kill_group(attempt.pid)
        counts[who if attempt and attempt.pid else f"{who}, no trainer known"] += 1
        if who != "trainer":
            worker = start()
    return counts, worker


def storm(tmp_path, monkeypatch, n, kills, seed):
    """A storm over n real runs; the counts of kills."""
    reference, run_s = undisturbed(tmp_path / "calm", n, tmp_path / "calm.log")
    monkeypatch.setenv(ENV_HOME, str(tmp_path / "home"))
    submit_real(tmp_path / "storm", n)
    started = []

    def start():
        started.append(WorkerProcess(tmp_path / f"worker-{len(started)}.log", trainer=TRAINER))
        return started[-1]

    try:
        counts, worker = kill_at_random(start, n, kills, random.Random(seed), run_s)
        assert worker.process.wait(LAST_S) == 0, worker.text
        check(tmp_path / "storm", reference, n)
    finally:
        for process in started:
            if process.process.poll() is None:
                process.kill()
        left = processes_of(home().root)
        for pid in left:
            kill_group(pid)
    assert left == []
    tried = Counter(attempt.outcome for run in runs() for attempt in attempts(run.id))
    print(f"storm: seed {seed}, kills {dict(counts)}, attempts {dict(tried)}, {run_s:.1f} s a run")
    return counts


def check(cwd, reference, n):
    """Each run completed exactly once, logged each update once, and is its undisturbed twin."""
    found = runs()
    assert [str(run.state) for run in found] == ["completed"] * n
    for run in found:
        made = attempts(run.id)
        assert [a.n for a in made] == list(range(1, len(made) + 1))
        assert [a.outcome for a in made].count("completed") == 1
        assert all(a.ended for a in made)
        assert updates_logged(run) == list(range(1, UPDATES + 1))
        assert_equal_runs(cwd / run.output_dir, reference / run.output_dir)


@pytest.mark.storm
def test_storm_over_real_training(tmp_path, monkeypatch):
    """Twenty runs, a hundred and ten kills: weights and logs are those of a quiet night."""
    seed = int(os.environ.get("STORM_SEED", "3"))
    counts = storm(tmp_path, monkeypatch, n=20, kills=110, seed=seed)
    assert sum(counts.values()) >= 100
