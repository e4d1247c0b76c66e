"""The runs of a sweep as a table that fits the terminal."""

from dataclasses import replace

import pytest

from orchestrator.views.overview import overview
from orchestrator.views.tables import natural_width, plain_table, runs_table
from tests.view_kit import RUN, SWEEP, drawn, status_of


def test_the_status_shows_every_run_on_a_line_of_its_own():
    """A narrow terminal gets fewer columns, never a folded row."""
    runs = [replace(RUN, id=i, name=f"lr1e-5-g{i}", metrics={"em": 0.5}) for i in (1, 2, 3)]
    view = overview([status_of(SWEEP, runs)])
    narrow = drawn(runs_table(runs, view, 60), width=60).splitlines()
    assert len(narrow) == 4
    assert all(len(line) <= 60 for line in narrow)
    assert "lr1e-5-g2" in narrow[2]
    assert "50.0%" in narrow[2]
    assert "progress" in drawn(runs_table(runs, view, 100))


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_long_name_is_cut_and_no_figure(width):
    """What a narrow terminal has no room for goes from the name of the run."""
    run = replace(RUN, name="n" * 200, metrics={"em": 0.5, "reward_mean": 1.25})
    lines = drawn(runs_table([run], overview([status_of(SWEEP, [run])]), width), width).splitlines()
    assert len(lines) == 2
    assert len(lines[1]) <= width
    assert {"completed", "10/10", "1.250", "50.0%"} <= set(lines[1].split())
    assert "n…" in lines[1]


def test_what_is_swept_stands_in_columns():
    """People compare values, not names; where there is no room, the name of a run is cut first."""
    wide = {"learning_rate": 1.23456e-4, "num_generations": 8, "rewards": ["int", "xml_format"]}
    runs = [replace(RUN, id=i, name="lr1e-5-g4-rewards=int..-s0", overrides=wide) for i in (1, 2)]
    runs.append(replace(RUN, id=3, name="base-s0", overrides={}))
    view = overview([status_of(SWEEP, runs)])
    keys = ("learning_rate", "num_generations", "rewards")
    lines = drawn(runs_table(runs, view, 120, swept=keys), 120).splitlines()
    assert lines[0].split()[:6] == ["id", "run", "lr", "g", "rewards", "state"]
    assert lines[1].split()[2:5] == ["1.23e-4", "8", "int+xml_format"]
    assert lines[3].split()[2:5] == ["–", "–", "–"]
    lines = drawn(runs_table(runs, view, 78, swept=keys), 78).splitlines()
    assert lines[0].split()[:4] == ["id", "run", "lr", "g"]
    assert max(map(len, lines)) <= 78
    assert lines[1].split()[-1] == "50.0%"
    assert drawn(runs_table(runs, view, 60, swept=keys), 60).split()[:3] == ["id", "run", "g"]


def test_a_table_says_how_wide_it_wants_to_be():
    """Not cut to any terminal: `best` leaves columns out by it, and names them."""
    table = plain_table("a", "b")
    table.add_row("x" * 300, "y")
    assert natural_width(table) == 300 + 2 + 1
    table.add_row("[/INST]", ":fire:")
    assert natural_width(table) == 300 + 2 + 6
