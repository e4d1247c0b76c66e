"""The embedded task for a real model: which number comes after n.

A small instruction model repeats the number at first, and learns to count on within some twenty
updates. Pure Python; the rows are the same on every machine.
"""

import hashlib
from typing import Literal

TEST_ROWS = 80
LAST = 240
QUESTION = "What number comes after {n}? Answer with <answer>number</answer>."


def counting_rows(split: Literal["train", "test"]) -> list[dict[str, str]]:
    """The rows of a split: `question`, and `answer` as a number. No number is in both splits."""
    numbers = sorted(range(1, LAST + 1), key=_rank)
    chosen = numbers[:TEST_ROWS] if split == "test" else numbers[TEST_ROWS:]
    return [{"question": QUESTION.format(n=n), "answer": str(n + 1)} for n in chosen]


def _rank(number: int) -> bytes:
    """A fixed random order, the same on every Python."""
    return hashlib.sha256(f"count {number}".encode()).digest()
