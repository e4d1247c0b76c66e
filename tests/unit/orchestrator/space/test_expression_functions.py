"""Functions and powers against those of the C library."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.expression_kit import value


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 1e6), st.floats(-5, 5))
def test_powers_and_logarithms_are_within_a_bit_of_the_c_library(x, y):
    """Computed in decimal so that every machine agrees, and still the right number."""
    assert value(f"{x!r} ** {y!r}") == pytest.approx(x**y, rel=1e-15)
    assert value(f"log({x!r})") == pytest.approx(math.log(x), rel=1e-15, abs=1e-300)
    assert value(f"exp({y!r})") == pytest.approx(math.exp(y), rel=1e-15)
    assert value(f"log10({x!r})") == pytest.approx(math.log10(x), rel=1e-14, abs=1e-300)
