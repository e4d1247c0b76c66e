"""What a status asks of the queue, and how little of it it reads."""

import contextlib
import json
import re
import sqlite3
from dataclasses import replace

from orchestrator.queue.store import Store
from orchestrator.run import Progress
from orchestrator.system.paths import home
from orchestrator.views.json_shapes import recorded_shape, run_shape
from orchestrator.views.overview import progress_of, read_overview
from tests.queue_kit import (
    DONE,
    OOM,
    nothing_before,
    plan_of,
    planned,
    submit,
)


def test_telling_runs_are_those_that_a_person_looks_for(tmp_path):
    """What runs and failed first, a third for what ended last, then what waits; all, if it fits."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(20)))
    with Store.open() as store:
        for outcome in (DONE, DONE, OOM, DONE):
            _, attempt = store.claims.claim("h", "b", nothing_before)
            store.claims.finish(attempt, outcome, newer_checkpoint=False, progress=Progress())
        store.claims.claim("h", "b", nothing_before)
        store.control.pause([20])
    with Store.open() as look:
        assert [run.id for run in look.status.summary_rows(1, 5)] == [3, 4, 5, 6, 20]
        assert [run.id for run in look.status.summary_rows(1, 6)] == [2, 3, 4, 5, 6, 20]
        assert [run.id for run in look.status.summary_rows(1, 2)] == [3, 5]
        assert look.status.summary_rows(1, 0) == []
        with Store.open() as store:
            store.control.cancel(range(6, 20))
        assert [run.id for run in look.status.summary_rows(1, 6)] == [3, 5, 17, 18, 19, 20]
        assert len(look.status.summary_rows(1, 100)) == 20
        assert [run.id for run in look.queries.begun(1)] == [5]


def test_the_speed_of_a_node_is_that_of_runs_of_the_same_kind(tmp_path):
    """By hand: of one kind 10 s, 30 s and 20 s, in the mean 20; the other kind says nothing."""
    kinds = (8, 8, 2, 8)
    submit(tmp_path, *(planned(f"r{n}", batch_size=size) for n, size in enumerate(kinds)))
    with Store.open() as store:
        for node, wall_s in ((None, 10.0), ("mac", 30.0), ("mac", 500.0), ("box", 20.0)):
            _, attempt = store.claims.claim("h", "b", nothing_before, "0", (), node)
            done = {"newer_checkpoint": False, "progress": Progress(), "wall_s": wall_s}
            store.claims.finish(attempt, DONE, **done)
        assert store.status.speeds() == {None: 2.0, "mac": 20 / 30, "box": 1.0}


def test_the_documents_of_sqlite_are_those_of_python(tmp_path):
    """Key by key in one order, for runs in every kind of state, whatever their names hold."""
    odd = replace(planned("r'\"\\ü\u2028"), overrides={"a": [1, None, True], "b.c": 1e-300})
    submit(tmp_path, odd, *(planned(f"r{i}") for i in range(4)))
    with Store.open() as store:
        for outcome in (DONE, OOM):
            _, attempt = store.claims.claim("h", "b", nothing_before)
            odd_metrics = {"em": 0.5, "loss": float("nan"), "tag": "ü", "n": 10**20}
            store.claims.finish(
                attempt, outcome, newer_checkpoint=False, progress=Progress(3, 9, odd_metrics)
            )
        store.claims.claim("h", "b", nothing_before)
        store.control.pause([5])
        found = store.status.run_documents(1, recorded_shape)
        wanted = [(run.id, run_shape(run, progress_of(run))) for run in store.queries.runs(1)]
    assert [(run_id, list(json.loads(text).items())) for run_id, text in found] == [
        (run_id, list(json.loads(json.dumps(shape)).items())) for run_id, shape in wanted
    ]
    assert len({shape["state"] for _, shape in wanted}) == 5


def test_a_duplicate_that_is_put_away_waits_for_nothing(tmp_path):
    """Only what is queued will take over the other's result; else the rest seems a run shorter."""
    with Store.open() as store:
        for sweep in ("s", "t"):
            runs = [replace(planned(sweep + name), identity=name, hash=name) for name in "abc"]
            plan = plan_of(tmp_path, *runs)
            store.submissions.add_sweep(sweep, lambda free, plan=plan: replace(plan, name=free))
        assert [r.same_as for r in store.queries.runs()] == [None] * 3 + [1, 2, 3]
        assert sum(store.status.waiting_duplicates(2).values()) == 3
        store.control.pause([5])
        assert sum(store.status.waiting_duplicates(2).values()) == 2


def test_the_folders_of_removed_runs_are_looked_for_once(tmp_path):
    """Not by a walk over all runs for each of them."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(9)))
    with Store.open() as store:
        folders = [run.folder for run in store.queries.runs()]
        asked = []
        store._db.raw.set_trace_callback(asked.append)
        shown = store.queries.shown_elsewhere([*folders, tmp_path / "other"])
        store._db.raw.set_trace_callback(None)
    assert shown == set(folders)
    assert len(asked) == 1


def test_a_status_reads_only_what_it_shows(tmp_path):
    """Each question of a status finds its rows by an index, whatever the queue holds."""
    submit(tmp_path, *(planned(f"r{i}") for i in range(4)))
    asked = []
    with Store.open(readonly=True) as store:
        store._db.raw.set_trace_callback(asked.append)
        for sweep in store.queries.sweeps():
            read_overview(store, [sweep], 12)
        store._db.raw.set_trace_callback(None)
        assert len(asked) > 8
        plans = [
            (sql, row["detail"])
            for sql in asked
            for row in store._db.read(f"EXPLAIN QUERY PLAN {sql}")
        ]
    # By the sweep alone, through the index of its positions, means every run that it has.
    # (What comes next is read in the order of its index, three rows of it; the ends of a sweep,
    # from which what differs is known, in that of its positions, a hundred rows each.)
    walks = re.compile(
        r"SCAN r\b(?! USING INDEX runs_waiting)|SCAN runs|TEMP B-TREE"
        r"|autoindex_runs_1 \(sweep_id=\?\)$"
    )
    ends = re.compile(r"SELECT overrides FROM runs .* ORDER BY position(?: DESC)? LIMIT 100")
    found = [plan for plan in plans if walks.search(plan[1]) and not ends.fullmatch(plan[0])]
    assert found == []


def test_damaged_overrides_hide_nothing_of_the_others(tmp_path):
    """A database is open to other programs: what is no object sets nothing."""
    submit(tmp_path, *(planned(f"r{i}", lr=i) for i in range(3)))
    with contextlib.closing(sqlite3.connect(home().db)) as other, other:
        other.execute("PRAGMA ignore_check_constraints = ON")
        other.execute("UPDATE runs SET overrides = '[1]' WHERE id = 2")
        other.execute("UPDATE runs SET overrides = 'no JSON' WHERE id = 3")
    with Store.open() as store:
        assert store.status.swept(1) == ("lr",)
        assert store.status.keys_of(1) == ["lr"]
        documents = [json.loads(text) for _, text in store.status.run_documents(1, recorded_shape)]
        assert [judged.overrides for judged in store.queries.judged(1)] == [{"lr": 0}, {}, {}]
    damaged = "its row in the queue is damaged: overrides"
    assert [(d["overrides"], d["reason"]) for d in documents] == [
        ({"lr": 0}, None),
        *[({}, damaged)] * 2,
    ]
