"""What a worker or a command says never ends its work, wherever its messages go."""

import os
import pty
import subprocess
import sys

import pytest

from tests.cli_kit import slow, start
from tests.queue_kit import DEADLINE_S, eventually, states


def closed_pipe():
    """As behind `| head`: its reader has gone."""
    read, write = os.pipe()
    os.close(read)
    return write


def full_pipe():
    """As behind a `less` that is not looked at: nobody reads, and it is full."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, b"x" * 4096)
    os.set_blocking(write, True)
    # The test's own process keeps the other end open.
    full_pipe.kept = read
    return write


def full_disk():
    """Each write fails for want of space."""
    return os.open("/dev/full", os.O_WRONLY)


@pytest.mark.parametrize("place", [closed_pipe, full_pipe, full_disk])
def test_a_worker_trains_on_where_nobody_can_read_what_it_says(folder, say, place):
    """Every run is trained, and the worker ends as it would have."""
    if place is full_disk and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    say("submit", "lr.toml")
    messages = place()
    working = start("work", "--until-empty", stderr=messages)
    os.close(messages)
    assert working.wait(DEADLINE_S) == 0
    assert states() == ["completed"] * 4


def test_a_worker_trains_on_when_its_terminal_goes(folder, say):
    """As after `disown` and a closed window: each write to the terminal fails."""
    say("submit", "lr.toml")
    ours, theirs = pty.openpty()
    working = start("work", "--until-empty", stderr=theirs, trainer=slow("update_s=0.1"))
    os.close(theirs)
    eventually(lambda: states()[0] == "running")
    os.close(ours)
    assert working.wait(DEADLINE_S) == 0
    assert states() == ["completed"] * 4


def closed(words, *numbers):
    """(exit code, what it said on the streams that are open) of a command without some streams."""
    shut = " ".join(f"{number}>&-" for number in numbers)
    shell = ["sh", "-c", f'exec "$@" {shut}', "sh", *words]
    done = subprocess.run(shell, capture_output=True, text=True, timeout=DEADLINE_S)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("command", [["status"], ["fields"], ["status", "--json"], ["--help"]])
@pytest.mark.parametrize("numbers", [(1,), (2,), (1, 2)])
def test_a_command_without_streams_has_nothing_to_say(folder, say, command, numbers):
    """No traceback, and nothing printed into a file that took the stream's number."""
    say("submit", "lr.toml")
    code, said = closed([sys.executable, "-m", "orchestrator", *command], *numbers)
    assert code == 0
    assert "Traceback" not in said
    assert states() == ["queued"] * 4


def test_a_trainer_without_streams_trains(folder):
    """`mlx-grpo` by hand, from a program that closes what it does not need."""
    words = [
        sys.executable,
        "-P",
        "-m",
        "grpo_core",
        "--dry-run",
        "--set",
        "model_name=builtin/tiny",
    ]
    code, said = closed([*words, "--set", "dataset=builtin/arithmetic"], 0, 1, 2)
    assert (code, said) == (0, "")


COMMANDS = [
    (["-m", "orchestrator", "submit", "lr.toml"], 2),
    (["-m", "orchestrator", "demo"], 2),
    (["-P", "-m", "grpo_core", "--dry-run"], 2),
]


@pytest.mark.parametrize(("command", "code"), COMMANDS)
def test_a_deleted_folder_is_named(folder, command, code):
    """Neither a traceback nor a file that is said not to be there."""
    gone = folder / "gone"
    gone.mkdir()
    shell = f'cd "{gone}" && rmdir "{gone}" && exec "$@"'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert done.returncode == code
    assert "the current folder has been deleted; cd into one that is there" in done.stderr
    assert "Traceback" not in done.stderr
