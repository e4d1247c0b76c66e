"""Control characters become text; what people write does not change."""

import io
import sys

import pytest

from grpo_core.terminal import tell, unfiltered, visible, visible_streams


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x1b]52;c;ZXZpbA==\x1b\\", r"\x1b]52;c;ZXZpbA==\x1b\ "[:-1]),
        ("\x1b]8;;http://a\x1b\\b", r"\x1b]8;;http://a\x1b\b"),
        ("a\x1b[2J\x1b[1;1H", r"a\x1b[2J\x1b[1;1H"),
        ("\x9b31m\x9d0;x\x9c", r"\x9b31m\x9d0;x\x9c"),
        ("good\rbad", r"good\x0dbad"),
        ("a\b\0\x7f", r"a\x08\x00\x7f"),
        ("tab\tand\nline", "tab\tand\nline"),
        ("日本語 é 😀 \\x1b", "日本語 é 😀 \\x1b"),
    ],
)
def test_only_what_a_terminal_obeys_is_written_out(text, shown):
    """Title, clipboard, link, erasure, their one-byte forms, and what writes over a line."""
    assert visible(text) == shown


def test_streams_show_what_is_printed_and_are_given_back(capsys):
    """print, write and our own lines; who means it finds the stream itself."""
    before = sys.stdout
    with visible_streams():
        print("a\x1b[1m", end="")
        sys.stdout.write("b\x07")
        tell("c\x1bc")
        unfiltered(sys.stdout).write("\x1b[0m")
        assert sys.stdout.encoding == before.encoding
    assert sys.stdout is before
    assert unfiltered(before) is before
    out = capsys.readouterr()
    assert (out.out, out.err) == ("a\\x1b[1mb\\x07\x1b[0m", "c\\x1bc\n")


def test_what_is_written_counts_in_its_own_characters():
    """As whoever writes in parts expects."""
    with visible_streams():
        sys.stdout.unfiltered = io.StringIO()
        assert sys.stdout.write("\x1b\x1b") == 2
        assert sys.stdout.unfiltered.getvalue() == r"\x1b\x1b"
