"""`watch` and `logs -f` beside a real worker with real children: they follow, and hurt nothing."""

import re
import signal
import subprocess
import sys

import pytest

from orchestrator.queue.store import Store
from orchestrator.system.paths import home
from tests.queue_kit import DEADLINE_S, FAKE, WorkerProcess, eventually, planned, states, submit
from tests.terminal import Terminal

COMMAND = (sys.executable, "-m", "orchestrator")


@pytest.fixture
def working(tmp_path, monkeypatch):
    """A worker that trains two runs of some seconds, and ends with them."""
    monkeypatch.chdir(tmp_path)
    submit(tmp_path, *(planned(n, updates=8, update_s=0.25, gain=0.01) for n in "ab"), name="lr")
    process = WorkerProcess(tmp_path / "worker.log")
    eventually(lambda: states()[0] == "running")
    yield process
    process.kill()


def test_watch_follows_from_run_to_run_and_q_leaves_it(working):
    """The bar moves, the next run takes its place; q leaves the terminal as it was."""
    with Terminal([*COMMAND, "watch", "--every", "0.1"], columns=100) as terminal:
        terminal.until(r"▶ 1 a of lr")
        assert "\x1b[?1049h" in terminal.raw  # The alternate screen.
        terminal.until(r"3/8 · about \d+s left")
        terminal.until(r"▶ 2 b of lr")
        terminal.forget()
        terminal.until(r"1 +a +completed")
        terminal.type("q")
        assert terminal.wait() == 0
        assert "\x1b[?1049l" in terminal.raw
        assert terminal.modes == terminal.before
        # The last picture stays, below the command.
        assert re.search(
            r"lr · running · 1 completed, 1 running", terminal.text.split("[?1049l")[-1]
        )
    assert working.wait() == 0
    assert states() == ["completed", "completed"]


@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGTERM, "\x03"])
def test_every_way_out_of_watch_leaves_the_training_alone(working, way):
    """Signals as well as Ctrl-C on the keyboard: exit 0, the terminal as before."""
    with Terminal([*COMMAND, "watch", "--every", "0.1"]) as terminal:
        terminal.until(r"▶ 1 a of lr")
        terminal.type(way) if isinstance(way, str) else terminal.process.send_signal(way)
        assert terminal.wait() == 0
        assert "\x1b[?1049l" in terminal.raw
        assert terminal.modes == terminal.before
        assert "Traceback" not in terminal.text
    assert working.wait() == 0
    assert states() == ["completed", "completed"]


@pytest.mark.parametrize("lines", [8, 14, 50])
def test_watch_keeps_its_last_line_in_a_short_terminal(tmp_path, lines):
    """What runs stands first and how to leave last; what has no room between is left out."""
    for name in ("one", "two", "three"):
        submit(tmp_path, *(planned(f"{name}-{i}", x=name) for i in range(9)), name=name)
    with Terminal([*COMMAND, "watch", "--every", "0.1"], columns=60, lines=lines) as terminal:
        terminal.until(r"q leaves; the training goes on")
        first = terminal.text.partition("q leaves")[0]
        assert "no worker runs" in first
        assert len(first.splitlines()) <= lines
        shown = [line.strip() for line in first.splitlines()]
        assert ("…" in shown) is (lines < 50)
        assert shown[1].startswith("all done")
        terminal.type("q")
        assert terminal.wait() == 0


def test_watch_in_a_pipe_prints_what_changes_and_ends_with_the_queue(working):
    """A picture a change, no escapes, each run seen; exit 0."""
    out = subprocess.run(
        [*COMMAND, "watch", "--every", "0.1"], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert out.returncode == 0
    assert "\x1b" not in out.stdout
    for words in ("▶ 1 a of lr", "▶ 2 b of lr", "lr · completed · 2 completed"):
        assert words in out.stdout
    pictures = out.stdout.split("\n--- ")
    assert len(pictures) >= 4
    assert len({picture.partition("\n")[2] for picture in pictures}) == len(pictures)
    assert working.wait() == 0


def test_watch_shows_a_queue_that_is_empty_or_held(tmp_path):
    """No queue at all makes no files; what is held is not waited for."""
    out = subprocess.run([*COMMAND, "watch"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert (out.returncode, out.stderr) == (0, "")
    assert "the queue is empty" in out.stdout
    assert not home().root.exists()
    submit(tmp_path, planned("a"), name="lr")
    with Store.open() as store:
        store.control.pause_sweep(1)
    out = subprocess.run([*COMMAND, "watch"], capture_output=True, text=True, timeout=DEADLINE_S)
    assert out.returncode == 0
    assert "paused; go on with: grpo-sweep resume lr" in out.stdout
    out = subprocess.run([*COMMAND, "watch", "nope"], capture_output=True, text=True, timeout=60)
    assert (out.returncode, out.stdout) == (3, "")
    assert "nope: no such sweep" in out.stderr


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_status_fits_its_terminal(working, columns):
    """No line is folded, whatever the width; colours only without NO_COLOR."""
    with Terminal([*COMMAND, "status"], columns=columns) as terminal:
        assert terminal.wait() == 0
        assert "\x1b[" in terminal.raw
        lines = terminal.text.splitlines()
        assert max(map(len, lines)) <= columns
        assert sum(bool(re.match(r" *\d+ +[ab] ", line)) for line in lines) == 2
    with Terminal([*COMMAND, "status"], columns=columns, NO_COLOR="1") as terminal:
        assert terminal.wait() == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.raw)


def test_logs_follow_the_running_run_and_then_the_next(working):
    """Without a run it hops, prints each line once, and ends with the queue."""
    out = subprocess.run(
        [*COMMAND, "logs", "-f"], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert out.returncode == 0
    assert re.findall(r"== attempt 1 of run (\d)", out.stdout) == ["1", "2"]
    assert re.findall(r"--- run (\d): (\w) ", out.stderr) == [("1", "a"), ("2", "b")]
    assert working.wait() == 0


def test_logs_follow_a_run_through_its_attempts(tmp_path, monkeypatch):
    """A crash in between, and the second attempt's log goes on below the first's."""
    monkeypatch.chdir(tmp_path)
    mark = tmp_path / "died"
    run = planned("a", updates=4, update_s=0.2, die="2:SIGKILL", die_file=str(mark), say="ouch")
    submit(tmp_path, run, name="lr")
    follower = subprocess.Popen(
        [*COMMAND, "logs", "-f"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert "no worker runs" in follower.stderr.readline()
    working = WorkerProcess(tmp_path / "worker.log", trainer=FAKE)
    out, _ = follower.communicate(timeout=DEADLINE_S)
    assert follower.returncode == 0
    assert re.findall(r"== attempt (\d) of run 1", out) == ["1", "2"]
    assert out.splitlines().count("ouch") == 1
    assert working.wait() == 0
