"""What a run says: lines everywhere, and in a terminal alone a line for what takes long."""

import subprocess
import sys

import pytest

from tests.queue_kit import DEADLINE_S
from tests.terminal import Terminal

TALK = """
import sys, time
from grpo_core.config import MLXGRPOConfig
from grpo_core.run.console import Console
console = Console(MLXGRPOConfig())
for number in (1, 2):
    with console.busy("evaluating"):
        time.sleep(float(sys.argv[1]))
        console.line("[note] in between")
        time.sleep(float(sys.argv[1]))
    console.line(f"done {number}")
try:
    with console.busy("failing"):
        time.sleep(float(sys.argv[1]))
        raise KeyError
except KeyError:
    console.line("after it")
"""


def test_what_takes_long_is_shown_in_a_terminal_and_leaves_nothing_behind():
    """Seconds the first time, a bar by them the second; lines stand on lines of their own."""
    with Terminal([sys.executable, "-c", TALK, "1.4"], columns=70) as terminal:
        assert terminal.wait() == 0
        raw, text = terminal.raw, terminal.text
    assert "evaluating … 1 s" in text
    assert "━" in text
    assert "of about 3 s" in text
    assert "failing … 1 s" in text
    # What stays on the screen: each line after the last clearing of it.
    stays = [line.rpartition("\x1b[K")[2].strip() for line in raw.split("\n")]
    assert stays == ["[note] in between", "done 1", "[note] in between", "done 2", "after it", ""]


def test_what_is_quick_is_not_shown():
    """No flicker for what takes less than a second."""
    with Terminal([sys.executable, "-c", TALK, "0.01"]) as terminal:
        assert terminal.wait() == 0
        assert "evaluating" not in terminal.text


@pytest.mark.parametrize("columns", [20, 200])
def test_a_narrow_terminal_gets_one_line(columns):
    """Cut, never folded: a folded line could not be taken back."""
    with Terminal([sys.executable, "-c", TALK, "1.2"], columns=columns) as terminal:
        assert terminal.wait() == 0
        drawn = [part.split("\n")[0].rstrip("\r") for part in terminal.raw.split("\x1b[K")]
    assert max(map(len, drawn)) < max(columns, len("[note] in between") + 1)


def test_in_a_file_there_are_only_lines():
    """No escape, no redrawing."""
    words = [sys.executable, "-c", TALK, "0.01"]
    out = subprocess.run(words, capture_output=True, text=True, timeout=DEADLINE_S)
    assert out.stderr.splitlines() == [
        "[note] in between", "done 1", "[note] in between", "done 2", "after it"
    ]  # fmt: skip
