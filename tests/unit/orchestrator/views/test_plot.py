"""Curves in a terminal: the right dots in the right places, by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.views.plot import curve_plot, shows_braille
from tests.sweep_kit import add_sweep, finish_next, finished_sweep, planned_run

VALUES = st.floats(-1e9, 1e9, allow_nan=False)


def test_a_rising_line_in_stars():
    """Four updates on nine columns and four lines: a diagonal, its ends labelled."""
    lines = curve_plot("loss", [(1, 0.0), (2, 1.0), (3, 2.0), (4, 3.0)], 16, 4, braille=False)
    assert lines == [
        "loss",
        "3.000 |       **",
        "      |    ***",
        "      |  **",
        "  0.0 |**",
        "       1 update 4",
    ]


def test_a_rising_line_in_braille():
    """Two by four dots a character: from the lower left dot of all to the upper right one."""
    lines = curve_plot("x", [(1, 0.0), (2, 1.0)], 8, 2)
    upper, lower = (line.split("┤")[1] for line in lines[1:3])
    assert ord(lower[0]) & 0x40  # Dot 7: the lower left.
    assert ord(upper[-1]) & 0x08  # Dot 4: the upper right.
    assert lower.strip() + upper.strip() == "".join(
        character for character in lower + upper if 0x2800 < ord(character) < 0x2900
    )


def test_exact_match_is_in_percent_and_a_flat_line_in_the_middle():
    """One label where there is one value; no division by nothing."""
    lines = curve_plot("em", [(0, 0.25), (10, 0.25)], 20, 3, braille=False)
    assert lines[2] == "25.0% |*************"
    assert lines[1].strip() == lines[3].strip() == "|"
    assert curve_plot("em", [(7, 0.5)], 20, 3)[-1].split() == ["7", "update", "7"]


def test_a_long_curve_says_what_a_point_is():
    """1,000 updates on at most 160 points."""
    curve = [(update, float(update)) for update in range(1, 1001)]
    lines = curve_plot("x", curve, 80)
    assert lines[0] == "x, the mean of 7 updates a point"
    assert lines[-1].split() == ["1", "update", "1000"]


def test_nothing_logged_is_no_plot():
    """The caller says so in words."""
    assert curve_plot("x", [], 80) == []


@given(st.lists(VALUES, min_size=1, max_size=300), st.integers(1, 120), st.integers(2, 20))
def test_a_plot_has_its_size_whatever_comes(values, width, height):
    """Never wider than asked for (but for room for a few dots), always as high."""
    lines = curve_plot("x", list(enumerate(values, 1)), width, height)
    assert len(lines) == height + 2
    margin = lines[1].index("┤")
    assert all(len(line) <= max(width, margin + 9) for line in lines[1:-1])
    assert any(0x2800 < ord(character) < 0x2900 for line in lines for character in line)


@pytest.mark.parametrize(("encoding", "shows"), [("utf-8", True), ("ascii", False), (None, False)])
def test_stars_where_a_terminal_has_no_braille(encoding, shows):
    """By what the stream can say."""
    assert shows_braille(encoding) is shows


def test_show_draws_reward_and_objective(tmp_path, capfd):
    """Below the details of the run."""
    finished_sweep(tmp_path, [(0.9, {"lora_rank": 8})])
    assert main(["show", "1", "--plot"]) == 0
    out = capfd.readouterr().out
    assert "\nreward_mean\n" in out
    assert "\nem\n" in out
    assert max(map(len, out.split("\nreward_mean\n")[1].splitlines())) <= 80


def test_show_of_a_run_that_never_started_says_so(tmp_path, capfd):
    """Words instead of an empty frame."""
    add_sweep(tmp_path, [planned_run("a", 0, {}), planned_run("b", 0, {"lora_rank": 2})])
    finish_next()
    assert main(["show", "2", "--plot"]) == 0
    assert "reward_mean: not logged yet" in capfd.readouterr().out
