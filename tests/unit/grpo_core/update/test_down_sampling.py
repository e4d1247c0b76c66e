"""The completions that are learnt from are those of greatest variance, by trying every subset."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.update.down_sampling import most_varied

NAN = float("nan")


@given(
    rewards=st.lists(st.integers(-8, 8).map(lambda n: n / 4), min_size=2, max_size=8),
    count=st.integers(2, 8),
)
def test_no_other_choice_varies_more(rewards, count):
    """PODS, theorem 1, against all subsets of that size."""
    count = min(count, len(rewards))
    places = most_varied(np.array(rewards), count)
    assert places == sorted(set(places))
    assert len(places) == count
    best = max(np.var(each) for each in combinations(rewards, count))
    assert np.var([rewards[i] for i in places]) == pytest.approx(best)


@pytest.mark.parametrize(
    ("rewards", "count", "places"),
    [
        ([0, 0, 0, 1], 2, [2, 3]),  # of equal rewards the later is the higher
        ([1, 0, 1, 0, 1, 1], 4, [1, 3, 4, 5]),  # two of each
        ([0, 0, 0, 1], 3, [1, 2, 3]),
        ([0, 1, 2, 3], 3, [0, 2, 3]),  # as much as 0, 1, 3: more of the highest
        ([5, 5, 5, 5], 2, [2, 3]),
        ([1, NAN, 0, 0.5], 2, [0, 2]),
        ([1, NAN, NAN, NAN], 2, [0, 1]),
        ([NAN, NAN, NAN], 2, [0, 1]),
    ],
)
def test_choices_by_hand(rewards, count, places):
    """Extremes of both ends; what is missing only where there is nothing else."""
    assert most_varied(np.array(rewards, float), count) == places


def test_a_large_common_part_hides_no_difference():
    """Rewards that all carry the same bonus of a thousand millions."""
    rewards = np.array([0.0, 0.5, 1.0, 0.25])
    assert most_varied(rewards + 1e9, 2) == most_varied(rewards, 2) == [0, 2]
