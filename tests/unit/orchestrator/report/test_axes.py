"""Axes of the report: round ticks that lie on the scale, and a place for every value."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.report.axes import axis_of, decade_ticks, objective_axis, round_ticks


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.297, 0.66, [0.3, 0.4, 0.5, 0.6]),
        (0.001, 0.098, [0.02, 0.04, 0.06, 0.08]),
        (1, 1000, [200, 400, 600, 800, 1000]),
        (-0.5, 0.7, [-0.5, -0.25, 0, 0.25, 0.5]),
        (0, 5e-324, []),
        (-1.7e308, 1.7e308, []),
    ],
)
def test_ticks_are_numbers_as_people_count(low, high, ticks):
    """By hand; none where floats end."""
    assert round_ticks(low, high) == ticks


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e9))
def test_a_scale_has_a_few_ticks_within_it(low, span):
    """Whatever the numbers are, as long as a float can tell its ends apart."""
    high = low + span
    if high - low > 1e-6 * max(abs(low), abs(high)):
        ticks = round_ticks(low, high)
        edge = 1e-6 * (high - low)
        assert 2 <= len(ticks) <= 6
        assert all(low - edge <= tick <= high + edge for tick in ticks)
        assert ticks == sorted(set(ticks))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-5, 1e-3, [1e-5, 3e-5, 1e-4, 3e-4, 1e-3]),
        (3.35e-6, 9.6e-4, [1e-5, 3e-5, 1e-4, 3e-4]),
        (1e-6, 1e-1, [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]),
        (1e-12, 1e3, [1e-12, 1e-9, 1e-6, 1e-3, 1, 1e3]),
    ],
)
def test_ticks_of_decades_are_powers_of_ten(low, high, ticks):
    """By hand: with threes between them where there is room."""
    assert decade_ticks(low, high) == ticks


def test_what_is_not_set_stands_below_a_scale_of_numbers():
    """A conditional parameter of a search: its numbers keep their scale."""
    values = [(20 + i) / 100 for i in range(16)]
    axis = axis_of("clip_eps_high", [None, *values])
    assert axis.place(None) == 0
    assert 0 < axis.place(values[0]) < axis.place(values[1]) < axis.place(values[-1]) == 1
    assert axis.ticks[0] == (0, "not set")
    assert [text for _, text in axis.ticks[1:]] == ["0.2", "0.25", "0.3", "0.35"]
    assert axis.ticks[3][0] == pytest.approx(axis.place(0.3))


def test_few_values_stand_evenly_apart_in_their_order():
    """Numbers by size, not set first; words by the alphabet."""
    axis = axis_of("num_generations", [16, None, 4, 8])
    assert [text for _, text in axis.ticks] == ["not set", "4", "8", "16"]
    assert [place for place, _ in axis.ticks] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    assert [text for _, text in axis_of("loss_type", ["grpo", "dapo"]).ticks] == ["dapo", "grpo"]


def test_the_objective_is_a_scale_from_worst_to_best():
    """Exact match in whole percents."""
    axis = objective_axis("em", [0.3, 0.5, 0.42])
    assert (axis.place(0.3), axis.place(0.5)) == (0, 1)
    assert [text for _, text in axis.ticks] == ["30%", "35%", "40%", "45%", "50%"]
    assert all(math.isclose(place, i / 4, abs_tol=1e-9) for i, (place, _) in enumerate(axis.ticks))


def test_few_draws_of_a_range_stand_on_its_scale():
    """Eleven draws of seven digits are no eleven categories; two of one decade keep their log."""
    draws = [1.23456e-5, 7.90332e-5, 3.16227766e-4, 1e-3]
    axis = axis_of("learning_rate", draws, logarithmic=True)
    assert not axis.apart
    assert [text for _, text in axis.ticks] == ["3e-5", "1e-4", "3e-4", "1e-3"]
    assert (axis.place(draws[0]), axis.place(draws[3])) == (0, 1)
    even = axis_of("kl_coeff", [0.0, 0.05, 0.1], logarithmic=False)
    assert [even.place(value) for value in (0.0, 0.05, 0.1)] == [0, 0.5, 1]
    assert axis_of("kl_coeff", [0.05], logarithmic=False).place(0.05) == 0.5
    assert axis_of("learning_rate", draws).apart
