"""The order in which formulas can be computed, or the circle that leaves none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.space.order import in_order


def test_keys_come_after_what_they_need_and_else_in_order():
    """Needs that are no keys do not count."""
    assert in_order({"c": ["b", "x"], "b": [], "a": ["c"]}) == ("b", "c", "a")
    assert in_order({"z": [], "y": [], "x": []}) == ("z", "y", "x")


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ({"a": ["a"]}, "a needs itself: a <- a"),
        ({"a": ["b"], "b": ["c"], "c": ["b"]}, "b needs itself: b <- c <- b"),
    ],
)
def test_a_circle_is_named(needs, words):
    """The way round is told, without what only leads to it."""
    with pytest.raises(SpecError, match=words):
        in_order(needs)


@given(st.dictionaries(st.integers(0, 8), st.frozensets(st.integers(0, 8)), max_size=9))
def test_an_order_exists_exactly_where_no_circle_is(graph):
    """Against a brute-force closure of the needs."""
    needs = {str(k): [str(v) for v in sorted(values)] for k, values in graph.items()}
    reach = {k: set(v) & needs.keys() for k, v in needs.items()}
    for _ in needs:
        reach = {k: v | {w for u in v for w in reach[u]} for k, v in reach.items()}
    if any(k in v for k, v in reach.items()):
        with pytest.raises(SpecError, match="needs itself"):
            in_order(needs)
    else:
        order = in_order(needs)
        assert sorted(order) == sorted(needs)
        assert all(order.index(n) < order.index(k) for k in needs for n in reach[k])
