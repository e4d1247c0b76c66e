"""Reporting while runs train: the worker, the process beside it, and what may go wrong there."""

import os
import sys
import threading
from dataclasses import replace

import pytest

from orchestrator.errors import UsageError
from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.trackers import targets
from orchestrator.trackers.following import Following, follow
from orchestrator.trackers.live import (
    ENV,
    ENV_FOLDER,
    LiveReports,
    check,
    leave_in_environment,
    targets_of_environment,
)
from orchestrator.trackers.targets import Target
from orchestrator.worker.events import Event, EventKind
from tests.queue_kit import claim, end, eventually, planned, submit
from tests.records import a_run
from tests.sweep_kit import write_lines
from tests.tracker_kit import Notebook

STARTED = Event(EventKind.STARTED, "attempt 1", a_run(id=7))


# --- the process beside the worker


@pytest.fixture
def book(monkeypatch):
    """A tool called `wandb` that writes down what it gets."""
    book = Notebook()
    tool = replace(targets._TOOLS["wandb"], open=lambda place: book, library="json")
    monkeypatch.setitem(targets._TOOLS, "wandb", tool)
    return book


def following(said, clock=lambda: 0.0):
    return Following(Target("wandb", "p"), said.append, clock)


def log(run, updates):
    lines = [{"update": n, "loss": 1.0} for n in range(updates)]
    write_lines(run.folder / "training_log.jsonl", lines)


def test_a_run_is_followed_from_its_start_to_its_end(tmp_path, book):
    """All but the open point while it trains, the rest and the state when the worker says so."""
    submit(tmp_path, planned("a"))
    said = []
    beside = following(said)
    with Store.open() as store:
        run, attempt = claim(store)
        log(run, 3)
        beside.look([run.id])
        [points] = book.points.values()
        assert sorted(points) == [0, 1]
        log(run, 5)
        beside.look()
        assert sorted(points) == [0, 1, 2, 3]
        end(store, attempt)
        beside.look([run.id])
    assert sorted(points) == [0, 1, 2, 3, 4]
    assert list(book.states.values()) == ["completed"]
    assert (book.begun, said) == (1, [])


def test_the_end_of_the_worker_closes_what_trains_on(tmp_path, book):
    """A killed worker's trainer lives: the next worker goes on with the same run."""
    submit(tmp_path, planned("a"))
    read, write = os.pipe()
    with Store.open() as store:
        run, attempt = claim(store)
    log(run, 3)
    os.write(write, b"%d\n" % run.id)
    os.close(write)
    follow(following([]), read)
    assert list(book.states.values()) == ["running"]
    assert book.begun == 1
    log(run, 6)
    beside = following([])
    beside.look([run.id])
    [points] = book.points.values()
    assert sorted(points) == [0, 1, 2, 3, 4]
    with Store.open() as store:
        end(store, attempt)
    beside.close()
    assert sorted(points) == [0, 1, 2, 3, 4, 5]
    assert list(book.states.values()) == ["completed"]


def test_a_tool_that_fails_is_said_once_and_gets_the_rest_later(tmp_path, book):
    """When it takes points again, none is missing and none comes twice; the tries grow rare."""
    submit(tmp_path, planned("a"))
    said, now = [], [0.0]
    beside = following(said, lambda: now[0])
    good, refused = book.start, []

    def refuse(run):
        refused.append(run)
        raise ConnectionError("no route\nto host")

    with Store.open() as store:
        run, _ = claim(store)
    log(run, 4)
    book.start = refuse
    beside.look([run.id])
    tried = []
    for now[0] in range(1, 20):
        before = len(refused)
        beside.look()
        tried += [now[0]] * (len(refused) - before)
    assert tried == [2, 6, 14]
    book.start = good
    now[0] = 30.0
    beside.look()
    assert said == ["wandb did not take what was logged: ConnectionError: no route to host"]
    [points] = book.points.values()
    assert sorted(points) == [0, 1, 2]


def test_a_run_that_was_removed_is_no_news(tmp_path, book):
    """The worker's news come late, and the queue is open to others."""
    submit(tmp_path, planned("a"))
    said = []
    following(said).look([99])
    assert (book.begun, said) == (0, [])


# --- the worker's side


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Nothing is reported by the environment; files belong into the test's folder."""
    monkeypatch.setenv(ENV, "")
    monkeypatch.setenv(ENV_FOLDER, str(tmp_path))


def reports(script, said, **values):
    command = (sys.executable, "-S", "-c", script)
    return LiveReports(home(), Target("wandb", "p"), said.append, command, **values)


def test_the_other_process_is_told_of_runs_and_its_words_are_said(tmp_path):
    """It runs in the user's folder, and ends with the worker."""
    said = []
    script = "import os, sys; print(os.getcwd(), sys.argv[1], *map(int, sys.stdin), flush=True)"
    with reports(script, said) as live:
        live(STARTED)
        live(replace(STARTED, kind=EventKind.ENDED))
        live(replace(STARTED, kind=EventKind.PROGRESS))
    [line] = said
    assert line.startswith(f"{tmp_path} wandb=p 7 7; the training goes on (see ")


@pytest.mark.parametrize(
    "script", ["raise SystemExit(3)", "import os; os.kill(os.getpid(), 9)", "import nothing_here"]
)
def test_one_that_dies_is_said_once_and_never_ends_the_worker(tmp_path, script):
    """Whatever it died of; what it printed is in the log that the line names."""
    said = []
    with reports(script, said) as live:
        eventually(lambda: said)
        for _ in range(3):
            live(STARTED)
    [line] = said
    assert "what reports to wandb has ended with exit code" in line
    assert "the training goes on" in line


def test_one_that_hangs_delays_neither_events_nor_the_end(tmp_path):
    """Its pipe fills up; at the end it is waited for so long, and then ended."""
    said = []
    with reports("import time; time.sleep(600)", said, timeout_s=0.1) as live:
        for _ in range(40_000):
            live(STARTED)
        process = live._process
    assert process.poll() is not None
    assert "does not take what it is told; the training goes on" in said[0]
    assert "waiting until wandb has everything; Ctrl-C does not wait" in said[1]
    assert len(said) == 2
    assert threading.active_count() < 5


def test_a_worker_in_the_background_finds_the_tools_and_the_folder(tmp_path, monkeypatch):
    """As --report-to left them; a place may have blanks."""
    monkeypatch.chdir(tmp_path)
    assert targets_of_environment() == []
    chosen = [Target("tensorboard", "my runs"), Target("wandb", "p")]
    leave_in_environment(chosen)
    monkeypatch.chdir("/")
    assert targets_of_environment() == chosen
    assert os.environ[ENV_FOLDER] == str(tmp_path)


def test_a_folder_that_is_gone_is_refused(tmp_path, monkeypatch):
    """Before the worker begins, not in the night; and only where something goes there."""
    monkeypatch.setenv(ENV_FOLDER, str(tmp_path / "no"))
    with pytest.raises(UsageError, match=f"{tmp_path / 'no'}: no such folder"):
        check([Target("tensorboard", "runs")])
    check([])
