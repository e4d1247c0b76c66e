"""What people look at: status, its pivot, show, watch, and notices of a worker, as typed."""

import functools
import json
import re
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli.group import SECTIONS
from orchestrator.queue.store import Store
from orchestrator.run import HoldCode, Outcome, Verdict
from orchestrator.system.paths import home
from orchestrator.worker import notices, worker
from tests.queue_kit import (
    DEADLINE_S,
    FAKE,
    WorkerProcess,
    eventually,
    kill_group,
    plan_of,
    planned,
    runs,
    states,
    submit,
)
from tests.sweep_kit import add_sweep, finish_next, finished_sweep, planned_run
from tests.terminal import Terminal

SETTINGS = [
    (gain, {"learning_rate": lr, "num_generations": g})
    for gain, lr, g in ((0.2, 1e-4, 2), (0.8, 1e-3, 2), (0.4, 1e-4, 8), (0.9, 1e-3, 8))
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder in which the commands are typed."""
    monkeypatch.chdir(tmp_path)
    # What --notify leaves in this process.
    monkeypatch.setenv(notices.ENV, "")
    monkeypatch.delenv(notices.ENV)
    return tmp_path


# --- status


def test_a_status_by_a_parameter_ranks_its_values(say, folder):
    """Rows by value, the best marked; with two, a table of both; the same as JSON."""
    finished_sweep(folder, SETTINGS, seeds=(0, 1))
    code, out, err = say("status", "--by", "learning_rate")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["learning_rate", "em", "n", "without", "a", "result"]
    assert [line[0] for line in lines[1:]] == ["1e-4", "1e-3"]
    assert "*" in lines[2]
    assert "* the best mean" in err
    both = say("status", "s", "--by", "learning_rate", "--by", "num_generations")[1].splitlines()
    assert both[0].split() == ["learning_rate", "num_generations", "2", "8"]
    assert both[2].rstrip().endswith("*  n=2")
    shape = json.loads(say("status", "--by", "num_generations", "--json")[1])
    assert [row["values"] for row in shape["rows"]] == [
        {"num_generations": 2}, {"num_generations": 8}
    ]  # fmt: skip
    assert [row["n"] for row in shape["rows"]] == [4, 4]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["learning_rat"], "--by learning_rat: no run of sweep s sets it; did you mean"),
        (["zzz"], "no run of sweep s sets it; it sets: learning_rate, num_generations, seed"),
        (["seed", "seed"], "name one or two parameters, each once"),
        (["seed", "learning_rate", "num_generations"], "name one or two parameters"),
    ],
)  # fmt: skip
def test_a_parameter_that_nobody_swept_is_a_usage_error(say, folder, args, said):
    """With the nearest name that there is."""
    finished_sweep(folder, SETTINGS)
    code, out, err = say("status", *(word for key in args for word in ("--by", key)))
    assert (code, out) == (2, "")
    assert said in err


def test_a_pivot_of_a_sweep_without_results_says_so(say, folder):
    """Nothing has run yet; and there may be no sweep at all."""
    assert say("status", "--by", "learning_rate")[0] == 3
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4})])
    code, out, err = say("status", "--by", "learning_rate")
    assert code == 0
    assert "1 queued" in out
    assert "sweep s has no result yet for em" in err


# --- show


def shown(say, ref="1"):
    """What `show` says about a run, and its JSON."""
    code, out, _ = say("show", ref)
    assert code == 0
    return out, json.loads(say("show", ref, "--json")[1])


def test_a_run_tells_what_it_waits_for(say, folder):
    """Its turn, its sweep, the queue, the same setting elsewhere, a back-off: each in words."""
    for name in ("one", "two"):
        runs = [planned_run(f"{name}-{i}", 0, {"learning_rate": 1e-4}) for i in range(2)]
        add_sweep(folder, runs, name)
    assert shown(say, "1")[1]["waits_for"] == []
    out, found = shown(say, "3")
    assert found["waits_for"] == ["2 runs before it in the queue"]
    assert "waits for  2 runs before it in the queue" in out
    with Store.open() as store:
        store._db.execute("UPDATE sweeps SET after_id = 1 WHERE id = 2")
        assert shown(say, "3")[1]["waits_for"] == ["sweep two waits until sweep one is done"]
        store.control.pause_sweep(2)
        words = "sweep two paused; go on with: grpo-sweep resume two"
        assert shown(say, "3")[1]["waits_for"] == [words]
        store.control.resume_sweep(2)
        store.holds.hold_sweep(2, HoldCode.WALL, "limits.wall: 12h are used up")
        assert "held: limits.wall: 12h are used up" in shown(say, "3")[1]["waits_for"][0]
        store.control.resume_sweep(2)
        store.control.pause_queue()
        assert shown(say, "3")[1]["waits_for"][0].startswith("the queue stands still: paused")
        store.control.resume_queue()
        store._db.execute("UPDATE runs SET same_as = 1 WHERE id = 2")
        assert "run 1 has the same setting" in shown(say, "2")[1]["waits_for"][0]
        later = "2999-01-01T00:00:00.000Z"
        store._db.execute("UPDATE runs SET not_before = ?, reason = 'lost' WHERE id = 1", (later,))
        assert shown(say, "1")[1]["waits_for"] == [f"tried again not before {later}, after lost"]
        store.control.pause([1])
    out, found = shown(say, "1")
    assert found["waits_for"] == ["paused; go on with: grpo-sweep resume 1"]
    assert re.search(r"history +[-0-9: ]+ paused$", out, re.M)


def test_a_run_at_a_rung_says_what_holds_it(say, folder):
    """It is not the user's to resume."""
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4})])
    finish_next(Outcome(Verdict.HELD, "at a rung"))
    with Store.open() as store:
        store._db.execute("UPDATE runs SET rung = 5")
    assert "held at update 5" in shown(say)[1]["waits_for"][0]


def test_a_run_tells_its_overrides_beside_the_base(say, folder):
    """The value of the frozen base config, or that it is the same; and a command that works."""
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4, "model_name": "builtin/tiny"})])
    out, found = shown(say)
    assert re.search(r"overrides  learning_rate 1e-4   \(base: 1e-6\)", out)
    assert re.search(r"  model_name    builtin/tiny   \(as in the base\)", out)
    assert found["base"] == {"learning_rate": 1e-6, "model_name": "builtin/tiny"}
    # The config of its command is there, though the run was never started.
    words = shlex.split(out.partition("by hand")[2].replace("\\\n", " "))
    assert Path(words[words.index("--config") + 1]).read_text() == 'model_name = "builtin/tiny"\n'
    assert words[:2] == ["cd", str(folder)]


@pytest.mark.parametrize(
    ("verdict", "state"),
    [(Verdict.OOM, "failed"), (Verdict.PRUNED, "pruned"), (Verdict.COMPLETED, "completed")],
)
def test_each_attempt_tells_why_it_ended_and_what_proves_it(say, folder, verdict, state):
    """The reason in words, and the line that the verdict rests on."""
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4})])
    finish_next(Outcome(verdict, "it was so", "result.json: so it was", 4))
    out, found = shown(say)
    assert found["state"] == state
    assert found["waits_for"] == []
    (attempt,) = found["attempts"]
    assert (attempt["reason"], attempt["evidence"]) == ("it was so", "result.json: so it was")
    assert re.search(rf"attempt 1  .* to .*: {verdict}$", out, re.M)
    for words in ("reason    it was so", "evidence  result.json: so it was"):
        assert words in out


def test_a_run_that_was_retried_tells_all_of_it(say, folder):
    """Two attempts, and in between that a user asked for another one."""
    add_sweep(folder, [planned_run("a", 0, {"learning_rate": 1e-4})])
    finish_next(Outcome(Verdict.OOM, "out of memory", "line 1", 4))
    assert say("retry", "1")[0] == 0
    finish_next(Outcome(Verdict.DIVERGED, "loss is nan", "line 2", 6))
    out, found = shown(say)
    assert [attempt["outcome"] for attempt in found["attempts"]] == ["oom", "diverged"]
    assert [event["kind"] for event in found["history"]] == [
        "started", "failed", "queued", "started", "failed"
    ]  # fmt: skip
    assert re.search(r"history +[-0-9: ]+ queued$", out, re.M)
    assert out.index("attempt 1") < out.index("out of memory") < out.index("attempt 2")


def test_a_run_whose_worker_is_gone_says_who_looks_after_it(say, folder):
    """It trains on alone; when it has ended unseen, the next worker finds out."""
    submit(folder, planned("a", updates=1000, update_s=0.1))
    working = WorkerProcess(folder / "worker.log")
    eventually(lambda: shown(say)[1]["update"])
    assert re.search(r"state +running$", shown(say)[0], re.M)
    working.kill()
    out, found = shown(say)
    assert "it trains on without a worker, and the next one takes it over" in out
    pid = found["attempts"][0]["pid"]
    assert f"and not ended (pid {pid})" in out
    kill_group(pid)
    eventually(lambda: "the next one finds out what became of it" in shown(say)[0])
    # The next one takes it up again; its history has both attempts.
    assert say("cancel", "1")[0] == 0


def test_a_run_is_found_by_its_name(say, folder):
    """Where two sweeps have one of that name, by the sweep's before it."""
    add_sweep(folder, [planned_run(name, 0, {"x": name}) for name in ("only-one", "both")], "one")
    add_sweep(folder / "two", [planned_run("both", 0, {"x": 2})], "two")
    assert shown(say, "only-one")[1]["id"] == 1
    code, out, err = say("show", "both")
    assert (code, out) == (2, "")
    assert "both: 2 runs have this name: 2 (sweep one), 3 (sweep two)" in err
    assert "or as two/both" in err
    assert shown(say, "two/both")[1]["id"] == 3
    assert say("cancel", "one/both")[2] == (
        "run 2 both: cancelled\nto take it back: grpo-sweep retry one/both\n"
    )
    assert say("pause", "only-one")[2] == "run 1 only-one: paused\n"
    assert say("wait", "one/both")[0] == 1
    assert say("show", "one/nope")[0] == 3
    assert say("cancel", "nope")[0] == 3


# --- manners


def test_a_submit_of_many_shows_that_it_goes_on(folder):
    """In a terminal, on stderr, gone when it is done; nothing of it in a pipe."""
    (folder / "base.toml").write_text('model_name = "builtin/tiny"\n')
    values = ", ".join(str(1e-6 * i) for i in range(1, 41))
    spec = (
        f'config = "base.toml"\nseeds = {list(range(60))}\n[params]\nlearning_rate = [{values}]\n'
    )
    (folder / "many.toml").write_text(spec)
    words = [sys.executable, "-m", "orchestrator", "submit", "many.toml"]
    with Terminal(words, columns=100) as terminal:
        assert terminal.wait() == 0
        assert re.search(r"(reading many.toml|queueing the runs) +0:00:0\d", terminal.text)
        stays = terminal.raw.rpartition("\x1b[2K")[2]
        assert "0:00" not in stays
    out = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S)
    assert (out.returncode, "reading" in out.stderr, "\x1b" in out.stderr) == (0, False, False)


def test_work_gives_its_notice_and_hands_it_on(say, folder, monkeypatch):
    """Here and in the background, wherever the command is written from."""
    monkeypatch.setattr(worker, "work", functools.partial(worker.work, trainer=FAKE))
    script, out = folder / "tell", folder / "told"
    script.write_text(f"#!/bin/sh\necho $GRPO_SWEEP_EVENT $GRPO_SWEEP_SWEEP >> {out}\n")
    script.chmod(0o755)
    submit(folder, planned("a"), name="one")
    assert say("work", "--until-empty", "--notify", "./tell")[0] == 0
    assert out.read_text() == "sweep_done one\n"
    submit(folder, planned("b"), name="two")
    assert say("work", "--until-empty", "--no-notify")[0] == 0
    assert out.read_text() == "sweep_done one\n"
    # In the background the real trainer is started, which refuses this run's settings at once.
    submit(folder, planned("c", learning_rat=1), name="three")
    assert say("work", "--until-empty", "--detach", "--notify", "./tell")[0] == 0
    eventually(lambda: "sweep_done three" in out.read_text())
    assert out.read_text().splitlines()[1:] == ["first_failure three", "sweep_done three"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--notify", "no-such-program x"], "no such command"),
        (["--notify", "tell 'a"], "No closing quotation"),
        (["--notify", "true", "--no-notify"], "give one of them"),
    ],
)
def test_a_notice_that_could_never_be_given_is_refused_at_once(say, folder, args, said):
    """Before anything is trained."""
    submit(folder, planned("a"))
    code, out, err = say("work", "--until-empty", *args)
    assert (code, out) == (2, "")
    assert said in err
    assert states() == ["queued"]


def test_every_command_shows_examples_before_its_options(say):
    """What people copy stands where they look first."""
    for commands in SECTIONS.values():
        for name in commands:
            page = say(name, "--help")[1]
            if "Example" in page:
                assert page.index("Example") < page.index("Options:"), name
    assert say("--help")[1].index("Examples:") < say("--help")[1].index("Options:")


@pytest.mark.parametrize("command", ["status", "watch", "logs", "show 1", "best", "wait"])
def test_a_newer_queue_is_refused_by_whoever_looks(say, folder, command):
    """In words, with exit code 2, and left as it is."""
    submit(folder, planned("a"))
    with sqlite3.connect(home().db) as db:
        db.execute("PRAGMA user_version = 99")
    before = home().db.read_bytes()
    code, out, err = say(*command.split())
    assert (code, out) == (2, "")
    assert "newer grpo-sweep" in err
    assert home().db.read_bytes() == before


def test_a_log_with_a_torn_last_line_is_shown_up_to_it(say, folder):
    """What is being written is not there yet; status, show and JSON agree."""
    submit(folder, planned("a", updates=1000, update_s=0.05))
    working = WorkerProcess(folder / "worker.log")
    try:
        eventually(lambda: shown(say)[1]["update"])
        run = runs()[0]
        working.kill()
        kill_group(shown(say)[1]["attempts"][0]["pid"])
        lines = ['{"update": 7, "updates_total": 9, "reward_mean": 0.5}', '{"update": 8, "rew']
        (run.folder / "training_log.jsonl").write_text("\n".join(lines))
        assert shown(say)[1]["update"] == 7
        assert "7/9" in say("status")[1]
        assert json.loads(say("status", "--json")[1])["runs"][0]["metrics"]["reward_mean"] == 0.5
    finally:
        working.kill()


def test_json_of_very_many_runs_is_the_same_json(say, folder):
    """A line a run, and still what any reader of JSON takes, with null for what is no number."""
    with Store.open(home().db) as store:
        plan = plan_of(folder, *(planned(f"r{i}", x=i) for i in range(1500)))
        store.submissions.add_sweep("s", lambda name: plan)
    out = say("status", "--json")[1]
    found = json.loads(out)
    assert [run["id"] for run in found["runs"]] == list(range(1, 1501))
    assert list(found) == ["worker", "slots", "nodes", "queue", "sweeps", "runs", "warnings"]
    assert len(out.splitlines()) < 1600
    assert "… 1,488 more: grpo-sweep status s" in say("status")[1]
    assert "… 1,460 more: grpo-sweep status s --all" in say("status", "s")[1]
    every = say("status", "s", "--all")[1]
    assert len(re.findall(r"^ *\d+  r\d+ +\d+  queued", every, re.M)) == 1500


def test_a_worker_that_ends_over_a_held_sweep_says_what_holds_it(say, folder, monkeypatch):
    """Not that nothing is left: three failures in a row hold the sweep."""
    monkeypatch.setattr(worker, "work", functools.partial(worker.work, trainer=FAKE))
    submit(folder, *(planned(name, die="1:4") for name in "abcd"), name="lr")
    code, _, err = say("work", "--until-empty")
    assert code == 0
    assert err.splitlines()[-1].startswith(
        "1 run left, and none can start: sweep lr is held: 3 fai"
    )
    out = say("status")[1]
    assert "held: 3 failures in a row: oom" in out
    assert "go on with: grpo-sweep resume lr" in out
    assert "all done" not in out


def test_the_views_of_a_worker_show_the_run_and_what_is_left(folder):
    """In a terminal: bar, reward and time left while it trains; a line a run that stays."""
    submit(folder, *(planned(n, updates=6, update_s=0.4, gain=0.01) for n in "ab"), name="lr")
    code = (
        "import functools, sys\nimport orchestrator.worker.worker as w\n"
        f"w.work = functools.partial(w.work, trainer={FAKE!r})\n"
        "from orchestrator.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    with Terminal([sys.executable, "-c", code, "work", "--until-empty"], columns=90) as terminal:
        terminal.until(r"▶ 1 a of lr")
        terminal.until(r"[2-5]/6 · about \d+s left")
        terminal.until(r"lr: 1 completed, 1 running · .* left")
        assert terminal.wait() == 0
        assert re.search(r"✓ +1 a  completed 6/6, em 1.0% → 50.0%", terminal.text)
        assert "nothing is left to do" in terminal.text
