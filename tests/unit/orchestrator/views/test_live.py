"""What a worker says as it works, a line an event."""

import io
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.errors import QueueBusy
from orchestrator.run import (
    Progress,
    RunState,
)
from orchestrator.system.paths import home
from orchestrator.views.live import Lines, LiveView, ended_text, progress_text
from orchestrator.worker.events import Event, EventKind
from tests.queue_kit import planned, submit
from tests.view_kit import RUN, drawn, logged


def test_a_worker_tells_a_tenth_of_a_run_at_a_time(tmp_path):
    """A log file gets some lines a run, not one an update."""
    run = replace(logged(tmp_path), state=RunState.RUNNING)
    said = []
    lines = Lines(said.append)
    lines(Event(EventKind.STARTED, "attempt 1, pid 5", run))
    for update in range(1, 101):
        lines(Event(EventKind.PROGRESS, "", run, Progress(update, 100, {}, 2.0)))
    assert len(said) == 11
    assert said[0] == "run 1 r: started, attempt 1, pid 5"
    assert said[-1] == "run 1 r: update 100/100, about 0s left"
    # Other news in between do not make it tell the same tenth again.
    lines(Event(EventKind.PREPARED, "standby (pid 6)", replace(run, id=2)))
    lines(Event(EventKind.PROGRESS, "", run, Progress(100, 100, {}, 2.0)))
    assert said[-1] == "run 2 r: prepared, standby (pid 6)"


@pytest.mark.parametrize("view", ["live", "lines"])
def test_a_view_waits_for_a_queue_no_longer_than_a_moment(tmp_path, monkeypatch, view):
    """It draws in the worker's thread, which must hear its signals and watch its trainer."""
    monkeypatch.setattr("orchestrator.queue.connection.wal_is_safe", lambda: False)
    submit(tmp_path, planned("a"))
    console = Console(file=io.StringIO(), force_terminal=True)
    shown = LiveView(home(), console) if view == "live" else Lines(print, home())
    with closing(sqlite3.connect(home().db, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(QueueBusy, match=r"waited 0\.\d+ s"):
            shown(Event(EventKind.EMPTY, "the worker ends"))


def test_the_end_of_a_run_is_told_with_its_result(tmp_path):
    """Completed with figures, otherwise with the reason."""
    run = logged(
        tmp_path,
        {"update": 0, "em": 0.25, "split": "test"},
        {"update": 9, "em": 0.5, "split": "test"},
    )
    now = Progress(10, 10, {"reward_mean": 0.5})
    assert ended_text(run, now) == ("completed 10/10, reward 0.5000, em 25.0% → 50.0%, in 20s")
    failed = replace(RUN, state=RunState.FAILED, reason="out of memory")
    assert ended_text(failed, None) == "failed: out of memory"
    back = replace(RUN, state=RunState.QUEUED, reason="interrupted")
    assert ended_text(back, None) == "goes back into the queue: interrupted"
    assert progress_text(RUN, Progress(5, 10, {}, 2.0)).endswith("about 10s left")


def test_two_runs_at_a_time_are_told_each_by_its_own_tenths(tmp_path):
    """And drawn both, by their slots, until they end."""
    here = replace(logged(tmp_path), state=RunState.RUNNING)
    one, two = (replace(here, id=n, slot=str(n)) for n in (0, 1))
    said = []
    console = Console(file=io.StringIO(), force_terminal=True)
    live = LiveView(home(), console)
    for hear in (Lines(said.append), live):
        hear(Event(EventKind.STARTED, "attempt 1, pid 5", one))
        hear(Event(EventKind.STARTED, "attempt 1, pid 6", two))
        for update in (5, 10):
            hear(Event(EventKind.PROGRESS, "", one, Progress(update, 10)))
            hear(Event(EventKind.PROGRESS, "", two, Progress(update - 1, 10)))
    assert [line[:18] for line in said[2:]] == [
        "run 0 r: update 5/", "run 1 r: update 4/", "run 0 r: update 10", "run 1 r: update 9/",
    ]  # fmt: skip
    picture = drawn(live._render())
    assert picture.index("slot 0") < picture.index("10/10") < picture.index("slot 1")
    live(Event(EventKind.ENDED, "completed", replace(one, state=RunState.COMPLETED, slot=None)))
    assert "slot" not in drawn(live._render())
    assert "9/10" in drawn(live._render())
