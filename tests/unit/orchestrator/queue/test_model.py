"""The queue as a model that is checked: random commands of users, worker and trainers' ends, with
deaths inside of transactions and reopenings in between; what must always hold is looked at after
each step, on the rows themselves.
"""

import random
import sqlite3
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from orchestrator.errors import NothingAffected
from orchestrator.queue import claims, submitting
from orchestrator.queue.store import Store
from orchestrator.run import TRANSITIONS, Outcome, Progress, Retry, RunState, Verdict
from tests.queue_kit import claim, end, plan_of, planned

OPEN = ("queued", "running", "paused")


class Died(Exception):
    """The process was killed here: nothing after it has happened."""


class Queue:
    """The real store on a real file, and what of it must not be lost."""

    def __init__(self, path, cwd, seed):
        self.path, self.cwd = path, cwd
        self.draw = random.Random(seed)
        self.store = self.opened()
        self.known = {}
        self.made = 0
        self.steps = Counter()

    def opened(self):
        """The store; processes die here, machines do not, so nothing waits for the disk."""
        store = Store.open(self.path)
        store._db.execute("PRAGMA synchronous = OFF")
        return store

    def step(self, dies_at):
        """One command, in which the process may die; then all that must hold."""
        commands = (self.submit, self.claim, self.claim, self.end, self.end, self.user, self.reopen)
        command = self.draw.choice(commands)
        if self.draw.random() < 0.1:
            dies_at.append(self.draw.choice(("store.adding", "store.claiming", "store.finishing")))
        self.steps[command.__name__] += 1
        try:
            with suppress(NothingAffected):
                command()
        except Died:
            self.steps["died"] += 1
            self.reopen()
        dies_at.clear()
        self.check()

    # --- commands

    def submit(self):
        """A sweep of one to three runs."""
        names = [f"r{self.made + n}" for n in range(self.draw.randint(1, 3))]
        plan = plan_of(self.cwd, *map(planned, names), retry=Retry(max=2))
        self.made += len(names)
        self.store.submissions.add_sweep("s", lambda name: replace(plan, name=name))

    def claim(self):
        """The worker takes the next run."""
        claim(self.store)

    def end(self):
        """The trainer of the running run ends, somehow; the record may come twice."""
        run = self.store.queries.running()
        if run is None:
            return
        attempt = self.store.queries.attempts(run.id)[-1]
        verdict = self.draw.choice(list(Verdict))
        outcome = Outcome(verdict, "words", "a line", 0)
        assert end(self.store, attempt, outcome, newer=self.draw.random() < 0.5) is not None
        assert (
            self.store.claims.finish(attempt, outcome, newer_checkpoint=False, progress=Progress())
            is None
        )

    def user(self):
        """Somebody asks for something, of runs or of the whole queue."""
        control = self.store.control
        ids = sorted(self.known)
        some = self.draw.sample(ids, min(len(ids), self.draw.randint(1, 3)))
        word = self.draw.choice(
            ("cancel", "pause", "resume", "resume", "retry", "remove", "move_first", "halt", "go")
        )
        if word == "halt":
            control.pause_queue()
        elif word == "go":
            control.resume_queue()
        elif some:
            done = getattr(control, word)(some)
            if word == "remove":
                for run in done:
                    assert run.state != "running"
                    del self.known[run.id]

    def reopen(self):
        """Every process is gone, and another opens the file: that changes nothing."""
        before = self.rows("runs") + self.rows("attempts") + self.rows("sweeps")
        self.store.close()
        self.store = self.opened()
        assert self.rows("runs") + self.rows("attempts") + self.rows("sweeps") == before

    # --- what must hold

    def rows(self, table):
        """The rows as another program sees them."""
        with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as other:
            other.row_factory = sqlite3.Row
            return [dict(row) for row in other.execute(f"SELECT * FROM {table} ORDER BY id")]

    def check(self):
        """The invariants."""
        runs = {row["id"]: row for row in self.rows("runs")}
        attempts = self.rows("attempts")
        now = {id: (row["state"], row["attempt"]) for id, row in runs.items()}
        lost = self.known.keys() - now.keys()
        assert not lost, "a run is lost"
        for id, (state, n) in now.items():
            before, n_before = self.known.get(id, ("queued", 0))
            reached = TRANSITIONS[RunState(before)]
            assert state == before or state in reached, f"{before} -> {state}"
            assert n in (n_before, n_before + 1), "an attempt too many"
        self.known = now
        running = [id for id, row in runs.items() if row["state"] == "running"]
        assert len(running) <= 1, "two runs at once"
        unended = [a["run_id"] for a in attempts if a["ended"] is None]
        assert unended == running, "an attempt without an end, or a run without an attempt"
        numbers = Counter(a["run_id"] for a in attempts if a["run_id"] in runs)
        assert all(numbers[id] == row["attempt"] for id, row in runs.items()), "attempts add up"
        folders = [row["folder"] for row in runs.values() if row["state"] in OPEN]
        assert len(folders) == len(set(folders)), "two open runs in one folder"
        for row in runs.values():
            assert (row["ended"] is not None) == (row["state"] not in OPEN), row["state"]
        self._check_shown(runs)

    def _check_shown(self, runs):
        """What `status` counts is what the rows say; no sweep stands there without a run."""
        wanted = Counter((row["sweep_id"], row["state"]) for row in runs.values())
        shown = {
            (sweep.id, str(state)): n
            for sweep in self.store.queries.sweeps(all=True)
            for state, n in sweep.counts.items()
            if n
        }
        assert shown == dict(wanted)
        assert {row["id"] for row in self.rows("sweeps")} == {r["sweep_id"] for r in runs.values()}


@pytest.fixture
def dies_at(monkeypatch):
    """The points at which the process dies next: as by SIGKILL, nothing is committed."""
    points = []

    def crashpoint(name):
        if name in points:
            raise Died(name)

    monkeypatch.setattr(claims, "crashpoint", crashpoint)
    monkeypatch.setattr(submitting, "crashpoint", crashpoint)
    return points


def walk(tmp_path, dies_at, seed, steps):
    """So many random steps; what was done."""
    queue = Queue(tmp_path / f"queue-{seed}.db", tmp_path, seed)
    for _ in range(steps):
        queue.step(dies_at)
    queue.store.close()
    return queue.steps


@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_done_to_the_queue_it_stays_whole(tmp_path, dies_at, seed):
    """Two thousand steps in all; every command and death has its turn."""
    steps = walk(tmp_path, dies_at, seed, 200)
    assert steps.keys() >= {"submit", "claim", "end", "user", "reopen"}


@pytest.mark.storm
def test_a_hundred_thousand_steps(tmp_path, dies_at):
    """The same, for long."""
    for seed in range(1000, 1250):
        walk(tmp_path, dies_at, seed, 400)
