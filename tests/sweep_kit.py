"""Sweeps with results for the tests of what shows them: a real queue, and logs as trainers write.

Nothing is trained here: the numbers follow a formula (see `lines_of`), and the queue goes through
the states that a worker would lead it through.
"""

import json
import math
import random
from dataclasses import replace
from pathlib import Path

from orchestrator.queue.store import Store
from orchestrator.results.objective import reduce_curve
from orchestrator.results.training_log import read_curve, read_progress
from orchestrator.run import Objective, Outcome, Plan, PlannedRun, Progress, Verdict
from orchestrator.system.paths import home
from tests.queue_kit import nothing_before

CONFIG = 'model_name = "builtin/tiny"\n'
SPEC = 'config = "base.toml"\n[params]\nlearning_rate = [1e-5, 1e-3]\n'
EVAL_EVERY = 50


def planned_run(name, seed, overrides, tags=()):
    """One run of a plan, in out/NAME."""
    words = (*(f"{key}={value}" for key, value in overrides.items()), f"seed={seed}")
    return PlannedRun(name, seed, dict(overrides), words, f"out/{name}", tuple(tags))


def add_sweep(cwd, runs, name="s", objective=None, spec=SPEC):
    """Queue these runs in the home that the environment names; the sweep's name."""
    with Store.open(home().db) as store:
        plan = Plan(name, CONFIG, "base.toml", spec, str(cwd), tuple(runs))
        plan = replace(plan, objective=objective or Objective())
        return store.submissions.add_sweep(name, lambda free: replace(plan, name=free)).name


def lines_of(rng, gain, updates):
    """A training log: reward and exact match rise with `gain`, entropy falls."""
    for update in range(updates + 1):
        share = 1 - math.exp(-4 * update / max(1, updates))
        if update:
            yield {
                **{"update": update, "batch_step": update, "lr": 1e-4, "loss": rng.gauss(0, 0.01)},
                **{"grad_norm": 0.1, "policy_reward": 0.01, "kl": 0.02 * share * rng.random()},
                **{"entropy": 0.6 - 0.4 * share * gain + rng.gauss(0, 0.01), "clip_frac": 0.0},
                **{"reward_mean": 1 + 2 * share * gain + rng.gauss(0, 0.2), "reward_std": 0.9},
                **{"reward/correctness": 0.5, "reward/format": 0.4, "truncated_frac": 0.0},
                **{"completion_length": 120 + 60 * share * gain + rng.gauss(0, 5)},
                **{"frac_reward_zero_std": 0.25, "tokens_per_s": 413.76, "rollout_s": 0.754},
                **{"update_s": 0.48, "peak_bytes": 3345563, "updates_total": updates},
            }
        if update % EVAL_EVERY == 0 or update == updates:
            em = min(1.0, max(0.0, 0.3 + 0.4 * share * gain + rng.gauss(0, 0.01)))
            ci95 = [em - 0.07, em + 0.07]
            yield {"update": update, "em": em, "split": "test", "n": 200, "ci95": ci95}


def sample(update, completion, reward=2.0, prompt="What is 84 - 59?"):
    """A line of samples.jsonl."""
    return {
        **{"update": update, "row": "r[0]", "prompt": prompt, "completion": completion},
        **{"answer": "25", "reward": reward, "rewards": {"correctness": reward}, "advantage": 0.1},
        **{"completion_length": 20, "finished": True},
    }


def write_lines(path, lines):
    """A file of JSON objects, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_run(folder, gain, updates, seed=0):
    """What a trainer leaves: log and samples."""
    rng = random.Random(f"{gain}-{seed}")
    write_lines(Path(folder, "training_log.jsonl"), lines_of(rng, gain, updates))
    early = sample(1, f"<answer>35</answer> gain {gain}", 1.0)
    write_lines(Path(folder, "samples.jsonl"), [early, sample(updates, "<answer>25</answer>", 4.0)])


COMPLETED = Outcome(Verdict.COMPLETED, "completed", exit_code=0)


def finish_next(outcome=COMPLETED, wall_s=60.0, write=None, value=None):
    """Claim the next run, let `write(run)` fill its folder, record the outcome; the run.

    With a `value` its log is not read for one.
    """
    with Store.open(home().db) as store:
        run, attempt = store.claims.claim("host", "boot", nothing_before)
        if write is not None:
            write(run)
        progress = Progress()
        if value is None:
            objective = store.queries.sweep_of(run).objective
            values = [found for _, found in read_curve(run.folder, objective.metric)]
            progress, value = read_progress(run.folder), reduce_curve(values, objective)
        return store.claims.finish(
            attempt, outcome, newer_checkpoint=True, progress=progress, wall_s=wall_s, value=value
        )


def finished_sweep(cwd, settings, seeds=(0,), updates=20, name="s", spec=SPEC):
    """A sweep whose runs all completed; `settings` maps a gain of 0..1 to overrides."""
    runs = [
        planned_run(f"{name}-{number}-s{seed}", seed, overrides)
        for seed in seeds
        for number, (_, overrides) in enumerate(settings)
    ]
    queued = add_sweep(cwd, runs, name, spec=spec)
    gains = {json.dumps(overrides, sort_keys=True): gain for gain, overrides in settings}
    for _ in runs:
        finish_next(
            write=lambda run: write_run(
                run.folder, gains[json.dumps(run.overrides, sort_keys=True)], updates, run.seed
            )
        )
    return queued
