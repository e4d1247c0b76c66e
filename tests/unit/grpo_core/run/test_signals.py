"""A signal becomes a flag; where nothing is worth keeping it ends the work at once."""

import subprocess
import sys

import pytest

PRELUDE = """
import os, signal, sys, time
from grpo_core.errors import Interrupted
from grpo_core.run.signals import StopFlag
stop = StopFlag().install()
def send(number):
    os.kill(os.getpid(), number)
"""


def run(code):
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code], capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_sets_the_flag_and_the_work_goes_on(name):
    """The flag says which signal it was; `check` raises Interrupted."""
    done = run(f"""
assert not stop()
send(signal.{name})
assert stop()
try:
    stop.check()
except Interrupted as e:
    print(e)
""")
    assert done.stdout == f"stopped by {name}\n", done.stderr


def test_wait_wakes_at_the_signal():
    """A sleep of ten minutes ends when the alarm sends the signal."""
    done = run("""
signal.signal(signal.SIGALRM, lambda *_: send(signal.SIGTERM))
signal.setitimer(signal.ITIMER_REAL, 0.05)
print(stop.wait(600))
""")
    assert done.stdout == "True\n", done.stderr


def test_wait_ends_by_itself():
    """No signal: False after the time."""
    assert run("print(stop.wait(0.01))").stdout == "False\n"


def test_others_may_ask_and_the_first_is_named():
    """From a thread, waking what waits."""
    done = run("""
import threading
threading.Timer(0.05, stop.ask, ["the GPU is lost"]).start()
print(stop.wait(600))
send(signal.SIGTERM)
try:
    stop.check()
except Interrupted as e:
    print(e)
""")
    assert done.stdout == "True\nthe GPU is lost\n", done.stderr


def test_at_once_breaks_through_broad_handlers():
    """A library that catches every Exception does not swallow the stop."""
    done = run("""
def library():
    try:
        send(signal.SIGTERM)
        time.sleep(600)
    # As libraries do: the stop has to get past it.
    except Exception:
        print("swallowed")
try:
    with stop.at_once():
        library()
    print("went on")
except Interrupted as e:
    print(e)
""")
    assert done.stdout == "stopped by SIGTERM\n", done.stderr


def test_at_once_does_not_begin_after_a_signal():
    """What came before is heard too."""
    done = run("""
send(signal.SIGTERM)
try:
    with stop.at_once():
        print("began")
except Interrupted:
    print("stopped")
""")
    assert done.stdout == "stopped\n", done.stderr


def test_second_ctrl_c_is_the_hard_way():
    """Someone who presses twice means it."""
    done = run("""
send(signal.SIGINT)
print("first", flush=True)
send(signal.SIGINT)
print("second", flush=True)
""")
    assert done.stdout == "first\n"
    assert done.returncode == -2
