"""Prompts that were flat come less often, by keyed tosses, and may come back."""

import pytest

from grpo_core.update.prompt_choice import choose_prompts, count_flat, is_drawn


@pytest.mark.parametrize("times", [0, 1, 2, 4])
def test_a_prompt_that_was_flat_is_drawn_by_the_power_of_the_chance(times):
    """GRESO: p^z. Of 2,000 tosses the share lies within 4 standard errors."""
    drawn = [is_drawn(3, {"3": times}, 0.7, 0, update) for update in range(2000)]
    wanted = 0.7**times
    assert abs(sum(drawn) / 2000 - wanted) <= 4 * (wanted * (1 - wanted) / 2000) ** 0.5


def test_a_toss_is_made_of_seed_update_and_row_alone():
    """The same again after a kill; another one for another update."""
    tosses = [[is_drawn(r, {str(r): 2}, 0.5, 1, u) for r in range(40)] for u in (1, 1, 2)]
    assert tosses[0] == tosses[1] != tosses[2]
    assert all(is_drawn(r, {str(r): 9}, 1.0, 0, 1) for r in range(40))


def test_flat_groups_are_counted_in_a_row():
    """One that teaches something ends the row; rows that were not drawn stay as they are."""
    known = {"1": 2, "2": 1, "5": 3}
    count_flat(known, {1: True, 2: False, 3: True, 4: False})
    assert known == {"1": 3, "3": 1, "5": 3}


def test_others_take_the_places_of_those_that_are_passed_over():
    """In order; when they run out, a prompt keeps its place."""
    others = iter("xyz")
    assert choose_prompts("abcd", others, lambda p: p in "ac") == (["a", "x", "c", "y"], 2)
    assert next(others) == "z"
    assert choose_prompts("abc", iter("x"), lambda p: False) == (["x", "b", "c"], 1)
