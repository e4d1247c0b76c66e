"""Domains: what a share of a distribution stands for, and the way back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import MLXGRPOConfig, apply_overrides, format_override
from orchestrator.space.distributions import Choice, LogInt, LogUniform, Normal, Stepped, Uniform

DOMAINS = [
    Uniform(0.0, 0.1),
    Uniform(-3.0, 7.5),
    Uniform(1.0, 1.000001),
    LogUniform(1e-6, 1e-3),
    LogUniform(0.5, 0.50001),
    Normal(0.8, 0.2),
    Normal(0.0, 1.0, 0.0, 0.5),
    Stepped(0.1, 0.1, 9, False),
    Stepped(4, 4, 16, True),
    LogInt(1, 64),
    Choice.of((4, 8, 16)),
    Choice.of(("a", "b", "c"), (1.0, 2.0, 7.0)),
]
EVEN = [(i + 0.5) / 20_000 for i in range(20_000)]


@pytest.mark.parametrize(
    ("domain", "u", "expected"),
    [
        (Uniform(0.0, 0.1), 0.5, 0.05),
        (Uniform(0.0, 0.1), 1 / 3, 0.033333),
        (Uniform(0.0, 1e7), 1 / 3, 3333300.0),
        (LogUniform(1e-6, 1e-4), 0.5, 1e-5),
        (LogUniform(1e-6, 1e-3), 1 / 3, 1e-5),
        (LogUniform(1e-6, 1e-3), 0.1, 1.99526e-06),
        (Normal(1.0, 2.0), 0.975, 4.91993),  # 1 + 2 * 1.959964
        (Normal(0.0, 1.0, -1.0, 1.0), 0.5, 0.0),
        (Stepped(0.1, 0.1, 9, False), 0.25, 0.3),
        (Stepped(4, 4, 16, True), 0.999, 64),
        (LogInt(1, 2), 0.68, 1),  # 0.5 to 1.5 of 0.5 to 2.5: log 3 / log 5 = 0.683
        (LogInt(1, 2), 0.69, 2),
        (Choice.of(("a", "b"), (1, 3)), 0.24, "a"),
        (Choice.of(("a", "b"), (1, 3)), 0.26, "b"),
    ],
)
def test_a_share_stands_for_the_value_worked_out_by_hand(domain, u, expected):
    """Numbers are rounded to six digits of their scale."""
    found = domain.pick(u)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@given(u=st.floats(0, 1))
def test_the_way_back_leads_to_the_same_value(domain, u):
    """Place is the inverse of pick, up to the rounding; what comes out is within the ends."""
    value = domain.pick(u)
    place = domain.place(value)
    assert 0 <= place <= 1
    if isinstance(value, str):
        assert domain.pick(place) == value
    else:
        low, high = domain.pick(0.0), domain.pick(1.0)
        assert low <= value <= high
        assert domain.pick(place) == pytest.approx(value, rel=1e-5, abs=1e-5 * (high - low))


@pytest.mark.parametrize("domain", [d for d in DOMAINS if d != Normal(0.8, 0.2)], ids=str)
@pytest.mark.parametrize("value", [-1e9, 1e9])
def test_a_value_outside_has_no_place(domain, value):
    """So an explicit run that lies elsewhere is recognised."""
    assert domain.place("z" if isinstance(domain.pick(0.5), str) else value) is None


@given(st.floats(0, 1))
def test_set_brings_a_sampled_value_back_to_the_last_bit(u):
    """What is sampled and what the trainer reads are the same number."""
    for domain in DOMAINS[:7]:
        value = domain.pick(u)
        config = apply_overrides(MLXGRPOConfig(), [format_override("learning_rate", value)], True)
        assert config.learning_rate == value


def test_shares_spread_over_equal_parts_follow_the_distribution():
    """Quantiles against numpy's on the untransformed scale."""
    picked = np.array([LogUniform(1e-6, 1e-2).pick(u) for u in EVEN])
    assert np.quantile(np.log10(picked), [0.25, 0.5, 0.75]) == pytest.approx([-5, -4, -3], abs=1e-3)
    normal = np.array([Normal(3.0, 2.0).pick(u) for u in EVEN])
    assert (normal.mean(), normal.std()) == pytest.approx((3, 2), abs=2e-3)
    cut = np.array([Normal(0.0, 1.0, 0.0).pick(u) for u in EVEN])
    assert cut.min() >= 0
    assert cut.mean() == pytest.approx(math.sqrt(2 / math.pi), abs=1e-3)  # The half normal.


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        (Stepped(1, 1, 4, True), {1: 0.25, 2: 0.25, 3: 0.25, 4: 0.25}),
        (Choice.of((8, 4), (3, 1)), {4: 0.25, 8: 0.75}),
        (LogInt(1, 3), {n: math.log((n + 0.5) / (n - 0.5)) / math.log(7) for n in (1, 2, 3)}),
    ],
)
def test_each_value_comes_as_often_as_it_should(domain, expected):
    """Slices of (0, 1) as wide as the probabilities."""
    picked = [domain.pick(u) for u in EVEN]
    for value, share in expected.items():
        assert picked.count(value) / len(EVEN) == pytest.approx(share, abs=1e-3)


def test_rounding_never_leads_out_of_the_range():
    """Ends with more digits than we keep are ends all the same."""
    narrow = Uniform(0.12345678, 0.12345679)
    assert all(0.12345678 <= narrow.pick(u) <= 0.12345679 for u in EVEN[::500])
    assert len({narrow.pick(u) for u in EVEN[::500]}) == 40
    assert Uniform(0.0, 0.1234567).pick(1.0) == 0.1234567
    below_one = Normal(0.99, 0.01, 0.0, math.nextafter(1.0, 0.0))
    assert all(below_one.pick(u) < 1 for u in EVEN[::50])


def test_numbers_of_a_choice_stand_in_order_and_equal_ones_count_once():
    """So that a neighbour is a neighbour; true is not 1."""
    assert Choice.of((16, 4, 8, 4)).values == (4, 8, 16)
    assert Choice.of((16, 4, 8, 4), (1, 1, 1, 1)).weights == (0.5, 0.25, 0.25)
    assert Choice.of((16, 4, 8)).ordered
    assert not Choice.of((True, False)).ordered
    assert Choice.of(("b", "a")).values == ("b", "a")
    assert Choice.of(([1.0], [2.0], [1.0])).values == ([1.0], [2.0])
