"""The commands as users type them: a real queue, exit codes, no traceback."""

import functools
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

import pytest

from grpo_core.config import FIELDS
from orchestrator.cli.group import SECTIONS
from orchestrator.system.paths import home
from orchestrator.worker import worker
from tests.cli_kit import SPEC, slow, start
from tests.queue_kit import DEADLINE_S, eventually, runs, states


def test_an_empty_queue_is_no_error(say):
    """The bare command is status; looking makes no files."""
    code, out, _ = say()
    assert (code, out) == say("status")[:2]
    assert code == 0
    assert "the queue is empty" in out
    shape = json.loads(say("status", "--json")[1])
    nothing = {
        "halted": None,
        "suspended": None,
        "next": [],
        "eta_s": 0.0,
        "eta_range_s": [0.0, 0.0],
    }
    worker = {"alive": False, "pid": None, "stopped": False, "waits": None}
    lists = {key: [] for key in ("slots", "nodes", "sweeps", "runs", "warnings")}
    assert shape == {"worker": worker, "queue": nothing, **lists}
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


def test_a_sweep_of_which_all_runs_failed_is_not_called_completed(say, folder, monkeypatch):
    """The worker's last line leads to the reasons, not to a ranking of nothing."""
    failing = functools.partial(worker.work, trainer=slow("die=1:3"))
    monkeypatch.setattr(worker, "work", failing)
    (folder / "s.toml").write_text('config = "base.toml"\nseeds = [0, 1]\n')
    say("submit", "s.toml")
    assert say("work", "--until-empty")[2].splitlines()[-1] == (
        "nothing is left to do, and sweep s has no result: 2 failed; "
        "why: grpo-sweep status s; once that is mended: grpo-sweep retry s"
    )
    assert json.loads(say("status", "--json")[1])["sweeps"][0]["state"] == "failed"


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


def test_runs_change_state_as_they_are_told(say):
    """Each change once; what is illegal changes nothing and exits with 3."""
    say("submit", "lr.toml")
    back = "to take it back: grpo-sweep retry 1\n"
    assert say("cancel", "1")[2] == f"run 1 lr1e-5-g4: cancelled\n{back}"
    assert say("cancel", "1")[0] == 3
    assert say("retry", "1")[0] == 0
    assert states() == ["queued"] * 4
    assert say("cancel", "1")[0] == 0
    assert say("pause", "2-3")[0] == 0
    assert states() == ["cancelled", "paused", "paused", "queued"]
    assert say("resume", "2", "4")[0] == 0
    assert states() == ["cancelled", "queued", "paused", "queued"]
    assert say("retry", "2")[0] == 3
    assert say("rm", "1", "3")[2] == "2 runs forgotten\n"
    assert [run.id for run in runs()] == [2, 4]
    assert say("cancel", "@")[2].startswith("2 runs cancelled\n")
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
        (["submit"], "name a SPEC, or give --param"),
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
    """As a table and as JSON, whole or by a part of the name or of the help."""
    out = say("fields")[1]
    assert all(re.search(rf"^  {name} ", out, re.M) for name in FIELDS)
    found = json.loads(say("fields", "lora", "--json")[1])
    assert {field["name"] for field in found} == {
        name for name, info in FIELDS.items() if "lora" in f"{name} {info.help}".lower()
    }
    assert list(found[0]) == [
        "name", "type", "default", "group", "help", "unit", "choices", "allowed",
    ]  # fmt: skip
    assert say("fields", "learning_rat")[0] == 0
    assert say("fields", "lerning")[0] == 3


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


def test_a_wait_says_that_the_queue_stands_still(folder, say):
    """Or it would wait for nothing, and say nothing."""
    say("submit", "lr.toml")
    say("pause", "--queue")
    said = folder / "said"
    with said.open("w") as file:
        process = start("wait", "lr", stderr=file)
    words = "the queue stands still: paused; go on with: grpo-sweep resume --queue"
    eventually(lambda: words in said.read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130


def test_ctrl_c_ends_a_wait_quietly(folder, say):
    """Exit 130, nothing cancelled."""
    say("submit", "lr.toml")
    process = start("wait", "lr")
    assert "no worker runs" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE_S) == 130
    assert process.stderr.read().strip() == ""
    assert states() == ["queued"] * 4


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(say, shell):
    """For each shell that click knows."""
    code, out, _ = say("completion", shell)
    assert code == 0
    assert "_GRPO_SWEEP_COMPLETE" in out
    # compdef is not there in a zsh without compinit, as a new one is.
    assert ("autoload -Uz compinit && compinit" in out) is (shell == "zsh")


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
