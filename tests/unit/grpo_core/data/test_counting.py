"""The task for a real model: its rows are right, and held-out numbers are new ones."""

import re

import pytest

from grpo_core.data.counting import counting_rows


@pytest.mark.parametrize(("split", "count"), [("train", 160), ("test", 80)])
def test_every_answer_is_the_next_number(split, count):
    """By the number that stands in the question."""
    rows = counting_rows(split)
    assert len(rows) == count
    for row in rows:
        assert list(row) == ["question", "answer"]
        assert int(row["answer"]) == int(re.search(r"\d+", row["question"])[0]) + 1


def test_no_number_is_in_both_splits():
    """All 240 are there, each once."""
    rows = counting_rows("train") + counting_rows("test")
    assert sorted(int(row["answer"]) for row in rows) == list(range(2, 242))


def test_the_rows_are_the_same_on_every_machine():
    """Written down once: a sweep of today is compared with one of next year."""
    assert [row["answer"] for row in counting_rows("test")[:5]] == ["34", "56", "93", "114", "188"]
