"""The task of the embedded model: its rows, right and the same for ever."""

import re
import subprocess
import sys

import pytest

from grpo_core.data.arithmetic import arithmetic_rows


def right_answer(question: str) -> int:
    """The answer from the words alone."""
    first, second = (int(number) for number in re.findall(r"\d+", question))
    if question.startswith("Take"):
        return second - first
    return first + second if re.search(r"\+|more|Add", question) else first - second


@pytest.mark.parametrize(("split", "count"), [("train", 2000), ("test", 400)])
def test_every_row_gives_the_right_answer(split, count):
    """The number after #### is what the question's words ask for, and the working says so too."""
    rows = arithmetic_rows(split)
    assert len(rows) == count
    for row in rows:
        assert list(row) == ["question", "answer"]
        working, number = row["answer"].split("\n#### ")
        assert int(number) == right_answer(row["question"])
        assert working.endswith(f"={number}>>{number}")


def test_no_problem_is_in_both_splits():
    """Not even the same numbers in other words: held-out rows are new problems."""

    def problems(split):
        return {row["answer"] for row in arithmetic_rows(split)}

    assert len(problems("train")) == 2000
    assert not problems("train") & problems("test")


def test_rows_never_change():
    """Old curves stay comparable with new ones, on any machine: these rows come first for ever."""
    assert [row["question"] for row in arithmetic_rows("test")[:3]] == [
        "Take 77 away from 82.",
        "Tom has 48 coins and finds 24 more. How many coins now?",
        "What is 76 - 39?",
    ]
    assert arithmetic_rows("test")[1]["answer"] == "48 + 24 = <<48+24=72>>72\n#### 72"


def test_import_loads_no_mlx():
    """The rows are there for those who must not load mlx."""
    heavy = "'mlx' in sys.modules or 'numpy' in sys.modules"
    code = f"import sys, grpo_core.data.arithmetic\nsys.exit({heavy})"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0
