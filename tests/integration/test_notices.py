"""Notices: a real worker with real children, and a real command that writes down what it gets."""

import json
import os
import shlex
import stat
import sys

import pytest

from orchestrator.errors import QueueError, UsageError, WorkerBusy
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode, Limits, Objective, Outcome, RunState, Verdict
from orchestrator.system.paths import home
from orchestrator.worker import worker
from orchestrator.worker.events import Event, EventKind
from orchestrator.worker.notices import (
    ENV,
    Notice,
    Notifier,
    Watcher,
    best_text,
    command_of_environment,
    desktop_command,
    is_off,
    parse_command,
    run_quietly,
)
from tests.queue_kit import FAKE, eventually, is_alive, planned, states, submit
from tests.records import a_run
from tests.sweep_kit import finish_next

SCRIPT = """#!{python}
import json, os
found = {{k: v for k, v in os.environ.items() if k.startswith("GRPO_SWEEP_") and k != {env!r}}}
with open({out!r}, "a") as out:
    out.write(json.dumps(found) + "\\n")
"""


@pytest.fixture
def told(tmp_path):
    """A command that notes its environment, and what it has noted."""
    out, script = tmp_path / "told", tmp_path / "tell me"
    script.write_text(SCRIPT.format(python=sys.executable, out=str(out), env="GRPO_SWEEP_HOME"))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)

    def read():
        lines = out.read_text().splitlines() if out.exists() else []
        return [{k.removeprefix("GRPO_SWEEP_"): v for k, v in json.loads(x).items()} for x in lines]

    read.command = (str(script),)
    return read


def work(command, said=None, **more):
    """Work the queue off with a notifier."""
    with Notifier(
        home().make(), command, (said if said is not None else []).append, **more
    ) as notify:
        return worker.work(until_empty=True, on_event=notify, trainer=FAKE)


def test_the_end_of_a_sweep_is_told_with_its_best_setting(tmp_path, told):
    """Once, with every field; the sweep that was done before makes no notice."""
    submit(tmp_path, planned("before"), name="before")
    worker.work(until_empty=True, trainer=FAKE)
    submit(tmp_path, planned("a", gain=0.1), planned("b", gain=0.2), name="lr")
    assert work(told.command) == 0
    assert told() == [
        {
            "EVENT": "sweep_done",
            "TEXT": "sweep lr is done: 2 completed; best: gain=0.1: em 50.0% (n=1)",
            "SWEEP": "lr",
            "RUN": "",
            "RUN_NAME": "",
            "STATE": "completed",
            "REASON": "",
            "BEST": "gain=0.1: em 50.0% (n=1)",
            "COUNTS": "2 completed",
        }
    ]


@pytest.mark.parametrize("error", [MemoryError("no room"), QueueError("queue.db: damaged")])
def test_the_worker_s_own_death_is_told(tmp_path, told, error):
    """By whatever error; the error goes on to whoever started it."""
    with pytest.raises(type(error)), Notifier(home().make(), told.command, [].append):
        raise error
    assert [(n["EVENT"], n["REASON"]) for n in told()] == [
        ("worker_died", f"{type(error).__name__}: {error}")
    ]


@pytest.mark.parametrize("error", [WorkerBusy("another"), KeyboardInterrupt()])
def test_an_end_that_is_no_death_is_not_told(tmp_path, told, error):
    """Another worker serves the queue; Ctrl-C."""
    with pytest.raises(type(error)), Notifier(home().make(), told.command, [].append):
        raise error
    assert told() == []


def test_the_first_failure_of_a_sweep_is_told_and_no_other(tmp_path, told):
    """With the run and the reason; then the end of the sweep, failures and all."""
    broken = {"die": "1:4"}
    submit(tmp_path, planned("a", **broken), planned("b", **broken), planned("c"), name="lr")
    assert work(told.command) == 0
    first, done = told()
    assert (first["EVENT"], first["SWEEP"]) == ("first_failure", "lr")
    assert (first["RUN"], first["RUN_NAME"], first["STATE"]) == ("1", "a", "failed")
    assert first["REASON"]
    assert first["TEXT"] == f"run 1 a of sweep lr failed: {first['REASON']}"
    assert first["COUNTS"] == "1 failed, 2 queued"
    assert (done["EVENT"], done["COUNTS"]) == ("sweep_done", "1 completed, 2 failed")


def fail_next(watcher):
    """Let the next run fail; what the watcher finds worth a notice."""
    run = finish_next(Outcome(Verdict.OOM, "out of memory", None, 4), value=0.0)
    return [notice.event for notice in watcher.notices(Event(EventKind.ENDED, "", run))]


def test_a_failure_after_a_retry_is_not_the_first(tmp_path):
    """Told once by a worker, though the count of failed runs is one again."""
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    watcher = Watcher(home())
    assert fail_next(watcher) == ["first_failure"]
    with Store.open() as store:
        store.control.retry([1])
    assert fail_next(watcher) == []
    # Nor is it the first for a worker that came later.
    assert fail_next(Watcher(home())) == []


def test_two_failures_at_once_are_a_first_one_all_the_same(tmp_path):
    """In two slots both may have ended before either is told."""
    submit(tmp_path, planned("a"), planned("b"), planned("c"))
    watcher = Watcher(home())
    outcome = Outcome(Verdict.OOM, "out of memory", None, 4)
    failed = [finish_next(outcome, value=0.0) for _ in range(2)]
    told = [watcher.notices(Event(EventKind.ENDED, "", run)) for run in failed]
    assert [[notice.event for notice in found] for found in told] == [["first_failure"], []]


def test_a_queue_that_stands_still_is_told_once_until_something_runs_again(tmp_path):
    """A worker looks at a held queue five times a second."""
    submit(tmp_path, planned("a"))
    watcher = Watcher(home())
    with Store.open() as store:
        store.holds.hold_sweep(1, HoldCode.WALL, "paused")
    waits = Event(EventKind.WAITING, "sweep s is held")
    assert watcher.notices(waits) == []
    watcher.notices(Event(EventKind.STARTED, ""))
    (notice,) = watcher.notices(waits)
    assert notice.event == "queue_stopped"
    assert watcher.notices(waits) == []


def test_a_queue_that_stands_still_by_itself_is_told(tmp_path, told):
    """Two failures in a row hold the sweep; a pause that a user asked for is no news."""
    runs = [planned(name, die="1:4") for name in "abc"]
    submit(tmp_path, *runs, name="lr", limits=Limits(max_failures=2))
    work(told.command)
    assert [found["EVENT"] for found in told()] == ["first_failure", "queue_stopped"]
    stopped = told()[1]
    assert "sweep lr is held: 2 failures in a row: oom" in stopped["REASON"]
    assert (stopped["SWEEP"], stopped["STATE"]) == ("lr", "paused")
    # Another worker finds it held, and has nothing new to tell.
    work(told.command)
    assert len(told()) == 2
    with Store.open() as store:
        store.control.resume_sweep(1)
        store.control.pause_sweep(1)
        watcher = Watcher(home())
        watcher.notices(Event(EventKind.STARTED, ""))
        assert watcher.notices(Event(EventKind.WAITING, "sweep lr is held: paused")) == []


def test_a_sweep_of_shared_results_is_done_with_the_other(tmp_path, told):
    """No run of it was trained, and still it is over; what a user cancels is no news."""
    submit(tmp_path, planned("a"), name="one")
    submit(tmp_path, planned("b"), name="two")
    submit(tmp_path, planned("c"), name="three")
    with Store.open() as store:
        store._db.execute("UPDATE runs SET same_as = 1 WHERE id = 2")
        watcher = Watcher(home())
        store.control.cancel([3])
        assert watcher.notices(Event(EventKind.STARTED, "")) == []
    work(told.command)
    assert {found["SWEEP"] for found in told()} == {"one", "two"}
    assert states() == ["completed", "completed", "cancelled"]


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (("sh", "-c", "echo one >&2; echo no such host >&2; exit 3"), "exit code 3: no such host"),
        (("sh", "-c", "exit 1"), "exit code 1"),
        (("/nowhere/notify",), "No such file or directory"),
        (("sh", "-c", "sleep 60 & wait"), "still not done after 0.2 s, and ended"),
    ],
)
def test_a_notice_that_fails_is_said_once_and_hurts_nothing(tmp_path, words, fault):
    """Two failures to tell of, one line about it; the queue is worked off."""
    submit(tmp_path, planned("a", die="1:4"), planned("b"), name="lr")
    said = []
    assert work(words, said, timeout_s=0.2) == 0
    failures = [line for line in said if "was not given" in line]
    assert failures == [f"the notice was not given: {shlex.join(words)}: {fault}"]
    assert states() == ["failed", "completed"]


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path):
    """The whole group, so that nothing piles up over a night."""
    mark = tmp_path / "pid"
    words = ("sh", "-c", f"sleep 600 & echo $! > {shlex.quote(str(mark))}; wait")
    assert "still not done" in run_quietly(words, {}, 0.5)
    eventually(lambda: not is_alive(int(mark.read_text())))
    # One that leaves a child behind and ends is done, whatever the child keeps open.
    assert run_quietly(("sh", "-c", "sleep 600 & echo $! > " + shlex.quote(str(mark))), {}, 5) == ""
    os.kill(int(mark.read_text()), 9)


def test_a_database_that_cannot_be_read_is_no_failure_of_the_worker(tmp_path):
    """The notifier says so once and the events go on."""
    submit(tmp_path, planned("a"))
    said = []
    with Notifier(home(), None, said.append) as notify:
        home().db.write_bytes(b"not a database" * 100)
        notify(Event(EventKind.STARTED, ""))
        notify(Event(EventKind.STARTED, ""))
    assert len(said) == 1
    assert "queue.db" in said[0]


# --- the words


def test_a_command_is_read_as_a_shell_reads_words_but_run_without_one(tmp_path, monkeypatch):
    """Quotes hold words together; the program is found once, so that it works from any folder."""
    script = tmp_path / "tell"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert parse_command("./tell 'a b' $HOME") == (str(script), "a b", "$HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_command("~/tell") == (str(script),)
    for text, said in (("tell 'a", "No closing quotation"), ("nope-x y", "no such command"),
                       ("", "no such command"), ("  ", "no such command")):  # fmt: skip
        with pytest.raises(UsageError, match=said):
            parse_command(text)


def test_the_environment_names_a_command_or_none_at_all(monkeypatch):
    """Not set: only the desktop; set but empty: nothing."""
    assert (command_of_environment(), is_off()) == (None, False)
    monkeypatch.setenv(ENV, "")
    assert (command_of_environment(), is_off()) == (None, True)
    monkeypatch.setenv(ENV, "sh -c 'exit 0'")
    assert command_of_environment()[1:] == ("-c", "exit 0")
    assert not is_off()


def test_no_field_breaks_the_environment():
    """A log may hold anything, an environment no NUL."""
    found = Notice("first_failure", "a\0b", "c\0", None, a_run(name="x\0")).fields()
    assert all("\0" not in text for text in found.values())
    assert found["GRPO_SWEEP_TEXT"] == "ab"


def test_the_desktop_gets_its_text_as_an_argument():
    """Whatever it holds, the script stays the same; elsewhere there is no such command."""
    text = 'x" & (do shell script "touch /tmp/x") & "'
    words = desktop_command(Notice("sweep_done", text), "darwin")
    assert words[0] == "osascript"
    assert words[-2:] == ("grpo-sweep", text)
    assert not any(text in word for word in words[:-1])
    assert desktop_command(Notice("sweep_done", text), "linux") is None


def test_the_best_setting_is_the_best_mean_over_its_seeds():
    """0.6 and 0.4 make 0.5, which 0.55 beats; only what differs is named."""

    def run(value, lr, state=RunState.COMPLETED):
        return a_run(state=state, value=value, overrides={"learning_rate": lr, "batch_size": 2})

    runs = [run(0.6, 1e-4), run(0.4, 1e-4), run(0.55, 1e-5), run(0.9, 1e-3, RunState.PRUNED)]
    assert best_text(runs, Objective()) == "learning_rate=1e-5: em 55.0% (n=1)"
    assert best_text(runs, Objective(goal="min")) == "learning_rate=1e-4: em 50.0% (n=2)"
    assert best_text(runs[:2], Objective("loss")) == "loss 0.5000 (n=2)"
    assert best_text([], Objective()) == ""
