"""Pieces of text on lines."""

from rich.text import Text

from orchestrator.views.now import flow


def test_pieces_of_a_line_go_to_the_next_whole():
    """As many on a line as fit; one that is too long has a line of its own."""
    lines = flow([Text("a" * 8), Text("b" * 8), Text("c" * 4), Text("d" * 30)], 20)
    assert [line.plain for line in lines] == [
        "  aaaaaaaa", "  bbbbbbbb · cccc", "  " + "d" * 30
    ]  # fmt: skip
    assert flow([Text("a"), Text("b")], 20, first="")[0].plain == "a · b"
