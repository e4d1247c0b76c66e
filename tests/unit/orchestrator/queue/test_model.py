"""The queue as a model that is checked: random commands of users, worker and trainers' ends, with
deaths inside of transactions and reopenings in between; what must always hold is looked at after
each step, on the rows themselves. Hypothesis cuts what fails down to the fewest steps.
"""

import sqlite3
import tempfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from orchestrator.errors import NothingAffected
from orchestrator.queue import claims, schema, submitting
from orchestrator.queue.connection import connect
from orchestrator.queue.store import Store
from orchestrator.run import TRANSITIONS, Outcome, Progress, Retry, RunState, Verdict
from tests.queue_kit import claim, end, plan_of, planned

OPEN = ("queued", "running", "paused")

# The point at which the process dies in a command, as by SIGKILL: mostly none.
POINTS = ("store.adding", "store.claiming", "store.finishing")
DEATHS = st.sampled_from((None,) * 12 + POINTS)
SLOTS = ("0", "1", "GPU-7f")
WORDS = ("cancel", "pause", "resume", "retry", "move_first", "remove")


class Died(Exception):
    """The process was killed here: nothing after it has happened."""


class QueueMachine(RuleBasedStateMachine):
    """The real store on a real file, and what of it must not be lost."""

    steps: ClassVar[Counter] = Counter()

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.cwd = Path(self.folder.name)
        self.path = self.cwd / "queue.db"
        self.dies_at = None
        self.now = datetime(2026, 1, 1, tzinfo=UTC)
        self.patches = [
            patch.object(m, "crashpoint", self.crashpoint) for m in (claims, submitting)
        ]
        for each in self.patches:
            each.start()
        self.store = self.opened()
        self.other = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)
        self.other.row_factory = sqlite3.Row
        self.known = {}
        self.made = 0
        self.idle = False

    def teardown(self):
        """The last process ends, and its files with it."""
        self.store.close()
        self.other.close()
        for each in self.patches:
            each.stop()
        self.folder.cleanup()

    def opened(self):
        """The store; processes die here, machines do not, so nothing waits for the disk.

        Its clock is the walk's own: by the real one a back-off ends early on a slow machine only,
        and the same commands would do something else.
        """
        db = connect(self.path)
        schema.migrate(db)
        db.execute("PRAGMA synchronous = OFF")
        return Store(db, lambda: self.now)

    def crashpoint(self, name):
        """Die here if this command is to."""
        if name == self.dies_at:
            raise Died(name)

    def does(self, name, command, dies_at=None):
        """A command, in which the process may die; what it cannot change it refuses."""
        self.steps[name] += 1
        self.now += timedelta(milliseconds=1)
        self.idle = name in ("halt", "reopen", "wait")
        self.dies_at = dies_at
        try:
            with suppress(NothingAffected):
                command()
        except Died:
            self.steps["died"] += 1
            self.reopened()
        self.dies_at = None

    # --- commands

    def stand(self, *states):
        """Whether a run stands in one of these states."""
        return any(state in states for state, _ in self.known.values())

    @initialize()
    def begin(self):
        """A walk may have no other submit."""
        self.submit(3, None)

    @precondition(lambda self: len(self.known) < 12)
    @rule(count=st.integers(1, 3), dies_at=DEATHS)
    def submit(self, count, dies_at):
        """A sweep of one to three runs."""
        names = [f"r{self.made + n}" for n in range(count)]
        plan = plan_of(self.cwd, *map(planned, names), retry=Retry(max=2))
        self.made += count
        add = self.store.submissions.add_sweep
        self.does("submit", lambda: add("s", lambda name: replace(plan, name=name)), dies_at)

    @precondition(lambda self: self.stand("queued"))
    @rule(slot=st.sampled_from(SLOTS), dies_at=DEATHS)
    def claim(self, slot, dies_at):
        """The worker takes the next run for a slot, unless that is taken or paused."""
        taken = {run.slot for run in self.store.queries.running()}
        shut = taken.union(self.store.queries.paused_slots())

        def take():
            claimed = claim(self.store, slot)
            if slot in shut:
                assert claimed is None
            if claimed is not None:
                assert (claimed[0].slot, claimed[1].slot) == (slot, slot)

        self.does("claim", take, dies_at)

    @precondition(lambda self: self.stand("running"))
    @rule(
        pick=st.integers(0, len(SLOTS) - 1),
        verdict=st.sampled_from(list(Verdict)),
        newer=st.booleans(),
        dies_at=DEATHS,
    )
    def end(self, pick, verdict, newer, dies_at):
        """The trainer of a running run ends, somehow; the record may come twice."""
        running = self.store.queries.running()
        run = running[pick % len(running)]
        attempt = self.store.queries.attempts(run.id)[-1]
        outcome = Outcome(verdict, "words", "a line", 0)

        def record():
            finish = self.store.claims.finish
            assert end(self.store, attempt, outcome, newer=newer) is not None
            again = finish(attempt, outcome, newer_checkpoint=False, progress=Progress())
            assert again is None

        self.does("end", record, dies_at)

    @precondition(lambda self: self.known)
    @rule(word=st.sampled_from(WORDS), picks=st.lists(st.integers(0, 99), min_size=1, max_size=3))
    def user(self, word, picks):
        """Somebody asks for something of some runs."""
        ids = sorted(self.known)
        some = sorted({ids[pick % len(ids)] for pick in picks})

        def ask():
            done = getattr(self.store.control, word)(some)
            if word == "remove":
                for run in done:
                    assert run.state != "running"
                    del self.known[run.id]

        self.does(word, ask)

    @rule(slot=st.sampled_from(SLOTS), goes=st.sampled_from((True, True, False)))
    def one_slot(self, slot, goes):
        """A slot is paused, or goes on; what runs in another is not asked for anything."""
        control = self.store.control
        before = {run.slot: run.request for run in self.store.queries.running()}
        self.does(
            "slot", lambda: control.resume_slot(slot) if goes else control.pause_slot(slot, SLOTS)
        )
        for run in self.store.queries.running():
            assert run.slot == slot or run.request == before[run.slot]

    @precondition(lambda self: not self.idle)
    @rule(goes=st.sampled_from((True,) * 7 + (False,)))
    def whole_queue(self, goes):
        """It stands still, mostly for a moment, or goes on."""
        control = self.store.control
        self.does("halt", control.resume_queue if goes else control.pause_queue)

    @precondition(lambda self: not self.idle)
    @rule(seconds=st.sampled_from((1, 60, 3600, -3600)))
    def wait(self, seconds):
        """Time passes, so that back-offs end; or somebody sets the clock back."""

        def pass_():
            self.now += timedelta(seconds=seconds)

        self.does("wait", pass_)

    @precondition(lambda self: not self.idle)
    @rule()
    def reopen(self):
        """Every process is gone, and another opens the file: that changes nothing."""
        self.does("reopen", self.reopened)

    def reopened(self):
        """Opening changes no row."""
        before = self.tables()
        self.store.close()
        self.store = self.opened()
        assert self.tables() == before

    # --- what must hold

    def tables(self):
        """All runs, attempts and sweeps as another program sees them."""
        names = ("runs", "attempts", "sweeps")
        read = {name: self.other.execute(f"SELECT * FROM {name} ORDER BY id") for name in names}
        return {name: [dict(row) for row in rows] for name, rows in read.items()}

    @invariant()
    def everything_adds_up(self):
        """Of runs, attempts and sweeps, as the file has them and as `status` counts them."""
        tables = self.tables()
        runs, attempts = {row["id"]: row for row in tables["runs"]}, tables["attempts"]
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
        slots = [row["slot"] for row in runs.values() if row["slot"] is not None]
        assert len(slots) == len(set(slots)) == len(running), "two runs in a slot"
        unended = [a["run_id"] for a in attempts if a["ended"] is None]
        assert sorted(unended) == running, "an attempt without an end, or a run without an attempt"
        numbers = Counter(a["run_id"] for a in attempts if a["run_id"] in runs)
        assert all(numbers[id] == row["attempt"] for id, row in runs.items()), "attempts add up"
        folders = [row["folder"] for row in runs.values() if row["state"] in OPEN]
        assert len(folders) == len(set(folders)), "two open runs in one folder"
        for row in runs.values():
            assert (row["ended"] is not None) == (row["state"] not in OPEN), row["state"]
        self._check_shown(runs, tables["sweeps"])

    def _check_shown(self, runs, sweeps):
        """What `status` counts is what the rows say; no sweep stands there without a run."""
        wanted = Counter((row["sweep_id"], row["state"]) for row in runs.values())
        shown = {
            (sweep.id, str(state)): n
            for sweep in self.store.queries.sweeps(all=True)
            for state, n in sweep.counts.items()
            if n
        }
        assert shown == dict(wanted)
        assert {row["id"] for row in sweeps} == {row["sweep_id"] for row in runs.values()}


def walk(examples, steps):
    """So many walks of at most so many steps; what was done in all of them."""
    QueueMachine.steps = Counter()
    run_state_machine_as_test(
        QueueMachine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    return QueueMachine.steps


def test_whatever_is_done_to_the_queue_it_stays_whole():
    """More than a thousand steps; every command and death has its turn."""
    steps = walk(30, 60)
    wanted = {"submit", "claim", "end", "reopen", "halt", "slot", "wait", "died", *WORDS}
    assert steps.keys() >= wanted
    assert steps.total() > 1000


@pytest.mark.storm
def test_a_hundred_thousand_steps():
    """The same, for long."""
    steps = Counter()
    while steps.total() < 100_000:
        steps += walk(200, 100)
    print(dict(steps))
