"""The process that a plug-in runs in: it is stopped, dies and ends without harm to the run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import GRPOError, Interrupted, RewardError
from grpo_core.rewards import plugin_host
from grpo_core.rewards.builtin import load_rewards
from grpo_core.rewards.plugins import Plugin
from tests.plugin_kit import example, score


@pytest.mark.parametrize("number", ["SIGSEGV", "SIGKILL"])
@pytest.mark.parametrize("at", ["f", "load"])
def test_a_process_killed_by_a_signal_is_a_crash_and_no_missing_reward(write, number, at):
    """At a call or as it loads: the run ends as one that is tried again, whatever is allowed."""
    kill = f"os.kill(os.getpid(), signal.{number})"
    body = f"def f(completions):\n    {kill}" if at == "f" else kill
    write(f"import os, signal\n{body}\n")
    with pytest.raises(GRPOError, match=rf"its process died \({number}\)") as caught:
        score("score.py:f", reward_on_error="nan")
    assert caught.value.exit_code == {"SIGSEGV": 1, "SIGKILL": 137}[number]


def test_a_wait_ends_soon_after_a_stop_is_asked_for(write):
    """SIGTERM must not wait for a slow reward."""
    write("import time\ndef f(completions): time.sleep(1000)")
    asked = iter([False, False, True])
    with (
        load_rewards(MLXGRPOConfig(rewards=["score.py:f"], reward_timeout_s=900.0)) as rewards,
        pytest.raises(Interrupted),
    ):
        rewards(["a"], [[1]], [example()], should_stop=lambda: next(asked))


def test_signals_to_the_whole_group_do_not_reach_the_plugin(write):
    """A terminal sends Ctrl-C to every process; what comes of it is the trainer's to decide."""
    write(
        """
        import os, signal
        def f(completions):
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            return [1, 2]
        """
    )
    assert score("score.py:f") == [1.0, 2.0]


def test_closing_ends_the_process(write):
    """Also one that is not at its end by itself."""
    write(
        """
        import os, threading, time
        threading.Thread(target=time.sleep, args=(1000,)).start()
        def f(completions): return [os.getpid()] * 2
        """
    )
    (pid, _) = score("score.py:f")
    assert not psutil.pid_exists(int(pid))


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_plugin_ends_with_a_trainer_that_is_killed(write, tmp_path, system):
    """Even one that hangs: nothing goes on burning a core after kill -9.

    macOS has no signal for the parent's death: there another process waits for it.
    """
    write(
        """
        import os, pathlib, re
        def f(completions):
            pathlib.Path("beside").write_text(str(os.getpid()))
            os.rename("beside", "pid")
            re.match("(a+)+$", "a" * 60 + "b")
        """
    )
    write_host(write, system)
    trainer = """
        from grpo_core.rewards import plugin_host
        from tests.plugin_kit import score
        plugin_host.__file__ = "host.py"
        score("score.py:f")
    """
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(trainer)], env=env)
    assert _comes_true((tmp_path / "pid").exists)
    pid = int((tmp_path / "pid").read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _comes_true(lambda: _is_gone(pid))


def test_what_waits_for_the_trainers_death_ends_with_the_plugin(write, monkeypatch):
    """Where it is needed: no process is left when a plug-in is closed, or has died by itself."""
    monkeypatch.setattr(plugin_host, "__file__", str(write_host(write, "darwin")))
    write("import os\ndef f(completions): return [os.getpid()] * 2")
    plugin = Plugin("score.py:f", 30.0, 60.0)
    pid = plugin({"completions": ["a", "b"]}, lambda: False)[0]
    (waits,) = psutil.Process(int(pid)).children()
    assert waits.num_fds() == 1  # Neither the run's lock nor the plug-in's pipes.
    plugin.close()
    assert _comes_true(lambda: _is_gone(waits.pid))
    write("import os\ndef f(completions): os._exit(3)", "dies.py")
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(RewardError, match="its process died"):
        score("dies.py:f")
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert _comes_true(lambda: all(map(_is_gone, left)))


def test_a_reward_that_is_edited_within_a_second_is_the_new_one(write, tmp_path, monkeypatch):
    """Of the same size and time, which is all that Python's cache of compiled files looks at."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    for value in (1.0, 2.0):
        write(f"def f(completions): return [{value}]")
        os.utime(tmp_path / "score.py", (1e9, 1e9))
        assert score("score.py:f", completions=("a",)) == [value]
    assert not (tmp_path / "__pycache__").exists()


def write_host(write, system):
    """The host as it would run on that system."""
    script = f"runpy.run_path({plugin_host.__file__!r}, run_name='__main__')"
    return write(f"import runpy, sys\nsys.platform = {system!r}\n{script}\n", "host.py")


def _is_gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def _comes_true(condition):
    """Whether it does within half a minute."""
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
