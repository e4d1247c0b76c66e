"""The commands as users type them: a real queue, real processes, exit codes, no traceback."""

import functools
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from grpo_core.config import FIELDS
from orchestrator.cli.group import SECTIONS
from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from orchestrator.worker import worker
from tests.queue_kit import DEADLINE_S, FAKE, eventually, runs, states

SPEC = """
config = "base.toml"
[params]
learning_rate = [1e-5, 1e-4]
num_generations = [4, 8]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a base config and a spec of four runs, in which the process stands."""
    (tmp_path / "base.toml").write_text('model_name = "builtin/tiny"\n')
    (tmp_path / "lr.toml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    # Workers of this process train with the fake trainer.
    monkeypatch.setattr(worker, "work", functools.partial(worker.work, trainer=FAKE))
    return tmp_path


def start(*args, trainer=FAKE, **more):
    """A command in a process of its own, with the fake trainer."""
    code = (
        "import functools, sys\nimport orchestrator.worker.worker as w\n"
        f"w.work = functools.partial(w.work, trainer={tuple(trainer)!r})\n"
        "from orchestrator.cli import main\nsys.exit(main(sys.argv[1:]))"
    )
    words = [sys.executable, "-c", code, *args]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **{**pipes, **more})


def slow(*sets):
    """The fake trainer with settings of its own."""
    return (*FAKE, *(word for item in sets for word in ("--set", item)))


# --- submit


def test_submit_queues_every_run_and_says_so(say):
    """The data names the sweep and its runs; the talk says that nobody works yet."""
    code, out, err = say("submit", "lr.toml")
    assert code == 0
    assert out == "queued sweep lr (runs 1-4): 4 runs\n"
    assert "no worker runs; start one with: grpo-sweep work" in err
    assert [run.name for run in runs()] == ["lr1e-5-g4", "lr1e-5-g8", "lr1e-4-g4", "lr1e-4-g8"]
    assert states() == ["queued"] * 4


def test_submit_json_is_as_the_design_says(say):
    """Sweep, id, and for each run the exact --set lines."""
    code, out, _ = say("submit", "lr.toml", "--set", "batch_size=2", "--json")
    found = json.loads(out)
    assert code == 0
    assert list(found) == ["sweep", "id", "runs"]
    assert (found["sweep"], found["id"]) == ("lr", 1)
    assert found["runs"][0] == {
        "id": 1,
        "name": "lr1e-5-g4",
        "set": [
            "batch_size=2",
            "learning_rate=1e-05",
            "num_generations=4",
            "run_name=lr1e-5-g4",
            "output_dir=outputs/lr/lr1e-5-g4",
        ],
    }


def test_a_dry_run_prints_commands_to_copy_and_queues_nothing(say):
    """What a shell makes of each line is what would be passed."""
    code, out, err = say("submit", "lr.toml", "--dry-run", "--set", "system_prompt=it's $HOME")
    lines = [line for line in out.splitlines() if line.startswith("mlx-grpo")]
    assert code == 0
    assert "nothing was queued" in err
    assert not home().db.exists()
    planned = json.loads(say("submit", "lr.toml", "--dry-run", "--json", "--set",
                             "system_prompt=it's $HOME")[1])  # fmt: skip
    assert planned["id"] is None
    for line, run in zip(lines, planned["runs"], strict=True):
        words = shlex.split(line)
        assert words[:3] == ["mlx-grpo", "--config", "base.toml"]
        assert words[3::2] == ["--set"] * len(run["set"])
        assert words[4::2] == run["set"]
    assert planned["runs"][0]["set"][0] == "system_prompt=it's $HOME"


def test_a_spec_with_a_fault_queues_nothing(say, folder):
    """Exit 2, the fault with its place and the nearest name, no queue made."""
    (folder / "bad.toml").write_text(SPEC.replace("learning_rate", "learning_rat"))
    code, out, err = say("submit", "bad.toml", "--start")
    assert code == 2
    assert out == ""
    assert err == (
        "error: bad.toml:4:1: params.learning_rat: unknown field; did you mean learning_rate?\n"
    )
    assert not home().db.exists()


def test_a_name_in_use_becomes_the_next(say):
    """Folders and --set lines follow the name that the sweep got."""
    say("submit", "lr.toml")
    code, out, err = say("submit", "lr.toml", "--json")
    assert code == 0
    assert json.loads(out)["sweep"] == "lr-2"
    assert json.loads(say("submit", "lr.toml", "--dry-run", "--json")[1])["sweep"] == "lr-3"
    assert "the name lr is in use, so this one is lr-2" in err
    assert runs()[4].set[-1] == "output_dir=outputs/lr-2/lr1e-5-g4"


def test_a_folder_of_another_run_is_refused(say, folder):
    """Whether it waits in the queue or lies on the disk; nothing is queued either time."""
    (folder / "a.toml").write_text('output = "o/{run}"\n' + SPEC)
    assert say("submit", "a.toml")[0] == 0
    (folder / "b.toml").write_text('output = "o/{run}"\n' + SPEC)
    code, _, err = say("submit", "b.toml")
    assert code == 2
    assert "o/lr1e-5-g4 belongs to run 1 of sweep a" in err
    (folder / "outputs" / "lr" / "lr1e-4-g8").mkdir(parents=True)
    (folder / "outputs" / "lr" / "lr1e-4-g8" / "config.resolved.json").write_text('{"hash": "x"}')
    for extra in ([], ["--dry-run"]):
        code, _, err = say("submit", "lr.toml", *extra)
        assert code == 2
        assert "outputs/lr/lr1e-4-g8 holds a run with another configuration" in err
    assert len(runs()) == 4


# --- looking


def test_an_empty_queue_is_no_error(say):
    """The bare command is status; looking makes no files."""
    code, out, _ = say()
    assert (code, out) == say("status")[:2]
    assert code == 0
    assert "the queue is empty" in out
    shape = json.loads(say("status", "--json")[1])
    nothing = {"halted": None, "next": [], "eta_s": 0.0, "eta_range_s": [0.0, 0.0]}
    worker = {"alive": False, "pid": None}
    assert shape == {"worker": worker, "queue": nothing, "sweeps": [], "runs": []}
    assert not home().root.exists()


@pytest.mark.parametrize(
    "args",
    [
        ("status", "nope"), ("show", "7"), ("logs", "7"), ("best", "nope"), ("wait", "nope"),
        ("cancel", "7"), ("cancel", "3-9"), ("pause", "nope"), ("resume", "7"), ("retry", "7"),
        ("rm", "@"), ("logs",), ("retry", "--failed"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_with_exit_3(say, args):
    """Unknown ids and names, in a queue that was never made."""
    code, out, err = say(*args)
    assert (code, out) == (3, "")
    assert err.startswith("error: ")


def test_a_finished_sweep_is_shown_in_every_way(say, folder):
    """Worked off in this process, then read back by each command."""
    say("submit", "lr.toml")
    code, out, err = say("work", "--until-empty")
    assert (code, out) == (0, "")
    words = r"run 1 lr1e-5-g4: completed 3, em 50\.0%, in \d+s"
    assert re.fullmatch(words, err.splitlines()[1])
    assert err.splitlines()[-1] == "nothing is left to do; results: grpo-sweep best"
    assert states() == ["completed"] * 4

    status = json.loads(say("status", "lr", "--json")[1])
    assert status["sweeps"][0]["state"] == "completed"
    assert [run["metrics"]["em"] for run in status["runs"]] == [0.5] * 4
    assert status["runs"][0]["overrides"] == {"learning_rate": 1e-5, "num_generations": 4}
    assert "lr · completed · 4 completed" in say("status")[1]

    shown = json.loads(say("show", "2", "--json")[1])
    assert shown["command"][1:4] == ["-P", "-m", "grpo_core"]
    assert shown["command"][-1] == "--strict"
    assert [(a["n"], a["outcome"], a["exit_code"]) for a in shown["attempts"]] == [
        (1, "completed", 0)
    ]
    assert shown["output_dir"] == str(folder / "outputs" / "lr" / "lr1e-5-g8")
    assert "attempt 1" in say("show", "2")[1]

    assert say("logs", "3")[1].startswith("== attempt 1 of run 3: ")
    assert say("logs")[1].startswith("== attempt 1 of run 4: ")
    rows = json.loads(say("best", "--json")[1])["rows"]
    assert [(row["n"], row["mean"], row["ci95"]) for row in rows] == [(1, 0.5, None)] * 4
    assert "n=1, no interval" in say("best", "lr")[1]
    assert say("wait", "lr")[0] == 0


def test_one_run_is_meant_or_the_choice_is_named(say):
    """A sweep of four is no single run."""
    say("submit", "lr.toml")
    code, _, err = say("show", "lr")
    assert code == 2
    assert err == "error: lr: 4 runs; name one of them: 1, 2, 3, 4\n"


def test_a_run_that_has_not_started_has_no_log(say):
    """Words instead of an empty screen."""
    say("submit", "lr.toml")
    code, _, err = say("logs", "1")
    assert (code, err) == (3, "error: run 1 has not started yet (it is queued)\n")
    assert "has no result yet for em: 4 queued" in say("best")[2]
    assert "not started yet" in say("show", "1")[2]


# --- changing


def test_runs_change_state_as_they_are_told(say):
    """Each change once; what is illegal changes nothing and exits with 3."""
    say("submit", "lr.toml")
    assert say("cancel", "1")[2] == "run 1 lr1e-5-g4: cancelled\n"
    assert say("cancel", "1")[0] == 3
    assert say("pause", "2-3")[0] == 0
    assert states() == ["cancelled", "paused", "paused", "queued"]
    assert say("resume", "2", "4")[0] == 0
    assert states() == ["cancelled", "queued", "paused", "queued"]
    assert say("retry", "1")[0] == 3
    assert say("rm", "1", "3")[2] == "2 runs forgotten\n"
    assert [run.id for run in runs()] == [2, 4]
    assert say("cancel", "@")[2] == "2 runs cancelled\n"
    code, _, err = say("wait")
    assert code == 1
    assert "0 of 2 completed" in err


def test_a_paused_sweep_keeps_its_runs_until_it_is_resumed(say):
    """The switch of the sweep, with runs held one by one let go again."""
    say("submit", "lr.toml")
    assert say("pause", "2")[0] == 0
    assert "sweep lr: paused" in say("pause", "lr")[2]
    assert say("pause", "lr")[0] == 3
    say("work", "--until-empty")
    assert states() == ["queued", "paused", "queued", "queued"]
    assert "sweep lr: resumed" in say("resume", "lr")[2]
    say("work", "--until-empty")
    assert states() == ["completed"] * 4


def test_failed_runs_are_named_and_can_be_retried(say, folder, monkeypatch):
    """`work` does its duty and exits with 0; `wait` tells the truth with 1."""
    broken = slow("die=2:3", f"die_file={folder / 'died'}", "say=no such column")
    say("submit", "lr.toml")
    monkeypatch.setattr(worker, "work", functools.partial(worker.work.func, trainer=broken))
    code, _, err = say("work", "--until-empty")
    assert code == 0
    assert "run 1 lr1e-5-g4: failed" in err
    assert states() == ["failed", "completed", "completed", "completed"]
    code, _, err = say("wait", "lr")
    assert code == 1
    assert "3 of 4 completed" in err
    assert "no such column" in say("logs", "1")[1]
    assert "no such column" in say("show", "1")[1]
    assert "run 1: " in say("status")[1]
    assert say("retry", "--failed")[2].startswith("run 1 lr1e-5-g4: queued again")
    say("work", "--until-empty")
    assert say("wait", "lr")[0] == 0


# --- run --queue


def test_queued_single_runs_with_one_output_dir_get_three_folders(say):
    """The learning-rate loop that people leave running overnight."""
    for lr in ("1e-6", "5e-6", "1e-5"):
        args = ("--config", "base.toml", "--set", f"learning_rate={lr}")
        code, out, _ = say("run", *args, "--queue")
        assert code == 0
        assert out.startswith("queued run ")
    found = runs()
    assert len({run.folder for run in found}) == 3
    assert [run.overrides for run in found] == [
        {"learning_rate": 1e-6}, {"learning_rate": 5e-6}, {"learning_rate": 1e-5}
    ]  # fmt: skip
    assert "learning_rate=5e-06" in found[1].set


def test_a_queued_single_run_is_checked_strictly(say):
    """What waits overnight must not fail for a typo."""
    code, _, err = say("run", "--config", "base.toml", "--set", "learning_rat=1", "--queue")
    assert code == 2
    assert "did you mean learning_rate?" in err
    assert not home().db.exists()
    assert say("run", "--queue", "--no-wait", "--config", "base.toml")[0] == 2


# --- manners


def test_every_command_of_the_help_is_there_and_says_what_it_does(say):
    """Sections, one line each, and a page with an own first sentence."""
    code, out, _ = say("--help")
    assert code == 0
    for title, commands in SECTIONS.items():
        assert f"{title}:" in out
        for name, (_, words) in commands.items():
            assert re.search(rf"^  {name} +{re.escape(words[:20])}", out, re.M)
            code, page, _ = say(name, "--help")
            assert code == 0
            assert page.startswith(f"Usage: grpo-sweep {name}")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["stats"], "no such command: stats; did you mean status?"),
        (["submit"], "Missing argument 'SPEC'"),
        (["status", "--jsn"], "No such option"),
        (["completion", "tcsh"], "is not one of"),
        (["retry"], "name what to retry"),
        (["submit", "nope.toml"], "nope.toml: no such sweep file"),
    ],
)
def test_wrong_usage_exits_with_2(say, args, said):
    """One message that says what was expected."""
    code, out, err = say(*args)
    assert (code, out) == (2, "")
    assert said in err


def test_fields_lists_every_field_of_the_config(say):
    """As a table and as JSON, whole or by a part of the name."""
    out = say("fields")[1]
    assert all(re.search(rf"^  {name} ", out, re.M) for name in FIELDS)
    found = json.loads(say("fields", "lora", "--json")[1])
    assert {field["name"] for field in found} == {name for name in FIELDS if "lora" in name}
    assert list(found[0]) == [
        "name", "type", "default", "group", "help", "unit", "choices", "allowed",
    ]  # fmt: skip
    assert say("fields", "learning_rat")[0] == 0
    assert say("fields", "lerning")[0] == 3


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(say, shell):
    """For each shell that click knows."""
    code, out, _ = say("completion", shell)
    assert code == 0
    assert "_GRPO_SWEEP_COMPLETE" in out


def test_completion_knows_sweeps_and_fields(say, capfd, monkeypatch):
    """What a shell asks while somebody types."""
    say("submit", "lr.toml")

    def complete(words, count):
        env = {"_GRPO_SWEEP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": count}
        code = "import sys; from orchestrator.cli import main; main([])"
        out = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True
        )
        return out.stdout.split()

    assert complete("grpo-sweep best l", "2") == ["plain,lr"]
    assert complete("grpo-sweep run --set learning_r", "3") == ["plain,learning_rate="]
    assert "plain,status" in complete("grpo-sweep st", "1")


def test_a_newer_database_is_refused_in_words(say):
    """Old programs must not touch what they do not understand."""
    say("submit", "lr.toml")
    with sqlite3.connect(home().db) as db:
        db.execute("PRAGMA user_version = 99")
    code, _, err = say("status")
    assert code == 2
    assert "newer grpo-sweep" in err


def test_a_reader_that_goes_away_is_no_error(folder):
    """`grpo-sweep status | head -1` ends without a word."""
    text = SPEC.replace("num_generations = [4, 8]", f"num_generations = {list(range(2, 400))}")
    (folder / "long.toml").write_text(text)
    process = start("submit", "long.toml", "--dry-run")
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    assert process.wait(DEADLINE_S) in (0, 1)


def test_ctrl_c_ends_a_wait_quietly(folder, say):
    """Exit 130, nothing cancelled."""
    say("submit", "lr.toml")
    process = start("wait", "lr")
    assert "no worker runs" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130
    assert process.stderr.read().strip() == ""
    assert states() == ["queued"] * 4


# --- processes side by side


def test_logs_follow_from_run_to_run(folder, say):
    """`logs -f` without a run hops to the next one and ends with the queue."""
    say("submit", "lr.toml")
    follower = start("logs", "-f")
    assert "no worker runs" in follower.stderr.readline()
    working = start("work", "--until-empty", trainer=slow("update_s=0.3"))
    out, err = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 0
    assert re.findall(r"== attempt 1 of run (\d)", out) == ["1", "2", "3", "4"]
    assert err.count("--- run ") == 4
    assert working.wait(DEADLINE_S) == 0


def test_a_running_run_is_cancelled_and_a_worker_interrupted(folder, say):
    """A wish reaches the trainer; SIGTERM puts the next one back; the worker exits with 75."""
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=0.1", "updates=1000"))
    eventually(lambda: states()[0] == "running" and (runs()[0].folder / "checkpoint-1").exists())
    found = json.loads(say("status", "--json")[1])
    assert found["worker"] == {"alive": True, "pid": working.pid}
    assert found["runs"][0]["update"] >= 1
    assert "run 1 lr1e-5-g4: asked to stop" in say("cancel", "1")[2]
    eventually(lambda: states()[:2] == ["cancelled", "running"])
    working.send_signal(signal.SIGTERM)
    assert working.wait(DEADLINE_S) == 75
    assert states() == ["cancelled", "queued", "queued", "queued"]


def test_a_second_worker_is_refused(folder, say):
    """One worker a queue; the message names it."""
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=60"))
    eventually(lambda: states()[0] == "running")
    code, _, err = say("work", "--until-empty")
    assert code == 3
    assert str(working.pid) in err
    assert "a worker runs already" in say("submit", "lr.toml", "--start")[2]
    working.send_signal(signal.SIGTERM)
    assert working.wait(DEADLINE_S) == 75


def test_a_worker_in_the_background_outlives_the_command(folder, say):
    """`work --detach` returns at once and names the worker's pid."""
    code, out, err = say("work", "--detach")
    assert (code, out) == (0, "")
    pid = int(re.search(r"pid (\d+)", err)[1])
    try:
        assert json.loads(say("status", "--json")[1])["worker"] == {"alive": True, "pid": pid}
        assert os.getsid(pid) == pid
    finally:
        os.kill(pid, signal.SIGTERM)
    eventually(lambda: not json.loads(say("status", "--json")[1])["worker"]["alive"])


def test_without_a_worker_a_cancel_still_ends_the_trainer(folder, say):
    """kill -9 of the worker leaves the trainer; a cancel then settles it by itself."""
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=0.1", "updates=1000"))
    eventually(lambda: states()[0] == "running" and (runs()[0].folder / "checkpoint-1").exists())
    working.kill()
    working.wait(DEADLINE_S)
    assert say("cancel", "1")[0] == 0
    assert states()[0] == "cancelled"


# --- demo


@pytest.fixture
def demo_runs(monkeypatch):
    """How many runs the shipped demo has."""
    from orchestrator.plan.expand import expand
    from orchestrator.spec.spec import read_spec
    from orchestrator.system.paths import shipped

    return len(expand(read_spec(shipped("sweeps/demo.toml"))).settings)


def test_the_demo_runs_to_its_ranking_and_runs_again(say, demo_runs):
    """Every run trained, a table on stdout, and what to type next; twice in one folder."""
    for name in ("demo", "demo-2", "demo-3"):
        if name == "demo-3":  # As with another queue: the folders are there, the runs are not.
            say("rm", "demo", "demo-2")
        code, out, err = say("demo")
        assert code == 0
        assert out.count("50.0% → 50.0%") == demo_runs
        assert len(re.findall(r"completed", err)) == demo_runs
        assert f"grpo-sweep best {name}" in out
        assert Path("outputs", name).is_dir()
    assert states() == ["completed"] * demo_runs


def test_an_interrupted_demo_goes_on(folder, say, demo_runs):
    """Ctrl-C, then the same command: no run is trained twice, none is added."""
    process = start("demo", trainer=slow("update_s=0.1", "updates=4"))
    eventually(lambda: "completed" in states())
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 75
    assert "stopped; nothing is lost. Go on with: grpo-sweep demo" in process.stderr.read()
    assert say("demo")[0] == 0
    assert states() == ["completed"] * demo_runs


def test_the_demo_leaves_the_runs_of_others_alone(say, folder, demo_runs):
    """A queue with work in it is not worked off by a demo."""
    say("submit", "lr.toml")
    code, out, err = say("demo")
    assert code == 0
    assert "the demo uses one of its own, in outputs/.demo-queue" in err
    assert "export GRPO_SWEEP_HOME=outputs/.demo-queue" in out
    assert states() == ["queued"] * 4
    with Store.open(folder / "outputs" / ".demo-queue" / "queue.db", readonly=True) as store:
        assert len(store.queries.runs()) == demo_runs
