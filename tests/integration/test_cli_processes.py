"""Commands beside workers and trainers, each a real process."""

import json
import os
import re
import signal
from datetime import datetime

from tests.cli_kit import slow, start
from tests.queue_kit import DEADLINE_S, attempts, eventually, runs, states


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
    assert found["worker"] == {
        "alive": True,
        "pid": working.pid,
        "stopped": False,
        "waits": None,
    }
    assert found["runs"][0]["update"] >= 1
    assert "run 1 lr1e-5-g4: asked to stop" in say("cancel", "1")[2]
    eventually(lambda: states()[:2] == ["cancelled", "running"])
    working.send_signal(signal.SIGTERM)
    assert working.wait(DEADLINE_S) == 75
    assert states() == ["cancelled", "queued", "queued", "queued"]


def test_a_suspended_worker_is_shown_as_stopped(folder, say):
    """After Ctrl-Z nothing will be done at any time: none is promised."""
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=60"))
    eventually(lambda: states()[0] == "running")
    working.send_signal(signal.SIGSTOP)
    eventually(lambda: json.loads(say("status", "--json")[1])["worker"]["stopped"])
    assert f"worker stopped (pid {working.pid}), as by Ctrl-Z" in say("status")[1]
    working.send_signal(signal.SIGCONT)
    eventually(lambda: f"worker runs (pid {working.pid})" in say("status")[1])
    working.send_signal(signal.SIGTERM)
    assert working.wait(DEADLINE_S) == 75


def test_a_suspended_trainer_is_shown_as_stopped(folder, say):
    """While it lasts, which is until somebody lets it go on or the limit for a stall ends it."""
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=60"))
    eventually(lambda: states()[0] == "running")
    trainer = eventually(lambda: attempts()[0].pid)
    os.kill(trainer, signal.SIGSTOP)
    shown = eventually(lambda: json.loads(say("status", "--json")[1])["queue"]["suspended"])
    assert shown == trainer
    words = f"its trainer is stopped (pid {trainer}), as by Ctrl-Z; it goes on with: kill -CONT"
    assert words in say("status")[1]
    os.kill(trainer, signal.SIGCONT)
    eventually(lambda: "is stopped" not in say("status")[1])
    working.send_signal(signal.SIGTERM)
    assert working.wait(DEADLINE_S) == 75


def test_a_worker_is_stopped_politely(folder, say):
    """`work --stop` returns once the run is checkpointed and back in the queue."""
    assert say("work", "--stop")[0::2] == (3, "error: no worker runs\n")
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=0.1", "updates=1000"))
    eventually(lambda: states()[0] == "running" and (runs()[0].folder / "checkpoint-1").exists())
    # A suspended one hears it too.
    working.send_signal(signal.SIGSTOP)
    code, _, err = say("work", "--stop")
    assert code == 0
    assert f"the worker (pid {working.pid}) checkpoints and ends" in err
    assert states() == ["queued"] * 4
    assert working.wait(DEADLINE_S) == 75


def test_a_worker_of_a_service_that_was_stopped_has_not_failed(folder, say, monkeypatch):
    """Or its service manager would start it again."""
    monkeypatch.setenv("GRPO_SWEEP_SERVICE", "1")
    say("submit", "lr.toml")
    working = start("work", trainer=slow("update_s=60"))
    eventually(lambda: states()[0] == "running")
    assert say("work", "--stop")[0] == 0
    assert working.wait(DEADLINE_S) == 0


def test_a_worker_waits_for_its_hours(folder, say):
    """`work --between`: the status says why it trains nothing, and until when."""
    say("submit", "lr.toml")
    hour = (datetime.now().hour + 3) % 24
    window = f"{hour:02}:00-{(hour + 1) % 24:02}:00"
    working = start("work", "--between", window, trainer=slow())
    until = f"until {hour:02}:00 (--between {window})"
    eventually(lambda: json.loads(say("status", "--json")[1])["worker"]["waits"] == until)
    assert f"worker waits (pid {working.pid}): {until}" in say("status")[1]
    assert states() == ["queued"] * 4
    assert say("work", "--stop")[0] == 0
    code, _, err = say("work", "--between", "22-8")
    assert code == 2
    assert "--between 22-8: must be two times of day, such as 22:00-08:00" in err


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
        assert json.loads(say("status", "--json")[1])["worker"]["pid"] == pid
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
