"""The embedded task: sums and differences of two-digit numbers, in GSM8K's format, and a teacher.

Pure Python; the rows are the same on every machine. The teacher, from whom `tiny.py` lets the
embedded model learn, has the habits of Brown and Burton's "Diagnostic models for procedural bugs"
(Cognitive Science, 1978): he often forgets the carry, or takes the smaller digit from the larger.
What is left for GRPO is to break the habit; it is the same one in all questions, so what the
training rows teach holds for the test rows.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

TEST_ROWS = 400
TRAIN_ROWS = 2000

T = TypeVar("T")


@dataclass(frozen=True)
class Wording:
    """A way to ask, and how often the teacher gets a hard problem right that is asked so."""

    text: str
    p_right: float


# Unequal, so that the model breaks the habit for one wording after the other. With these the
# greedy answers of the shipped model are right on the easy rows and a few of the hard ones.
WORDINGS: dict[str, tuple[Wording, ...]] = {
    "+": (
        Wording("What is {a} + {b}?", 0.70),
        Wording("{name} has {a} coins and finds {b} more. How many coins now?", 0.42),
        Wording("Add {b} to {a}.", 0.33),
    ),
    "-": (
        Wording("What is {a} - {b}?", 0.50),
        Wording("{name} has {a} coins and spends {b}. How many are left?", 0.38),
        Wording("Take {b} away from {a}.", 0.30),
    ),
}
NAMES = ("Ann", "Ben", "Mia", "Tom")

# How the teacher lays an answer out, and how often: format rewards need their variance too.
LAYOUTS = {
    "<reasoning>\n{work}\n</reasoning>\n<answer>\n{result}\n</answer>": 0.82,
    "<reasoning>\n{work}\n</reasoning>\n<answer>\n{result}\n</answer>\n{result}": 0.06,
    "<reasoning>{work}</reasoning><answer>{result}</answer>": 0.06,
    "{work}\n<answer>\n{result}\n</answer>": 0.06,
}


@dataclass(frozen=True)
class Problem:
    """`a op b` with two-digit terms and a result from 1 to 99."""

    a: int
    op: str
    b: int

    @property
    def result(self) -> int:
        """The right one."""
        return self.a + self.b if self.op == "+" else self.a - self.b

    @property
    def is_hard(self) -> bool:
        """Whether the ones overflow: a carry, or a borrow."""
        ones_a, ones_b = self.a % 10, self.b % 10
        return ones_a + ones_b > 9 if self.op == "+" else ones_a < ones_b

    @property
    def habit_result(self) -> int:
        """What the habit makes of it: each column by itself. The right one if it is easy."""
        tens_a, ones_a = divmod(self.a, 10)
        tens_b, ones_b = divmod(self.b, 10)
        if self.op == "+":
            return 10 * (tens_a + tens_b) + (ones_a + ones_b) % 10
        return 10 * (tens_a - tens_b) + abs(ones_a - ones_b)

    @property
    def rank(self) -> int:
        """A fixed random number, the same on every Python: orders the problems, and more."""
        digest = hashlib.sha256(f"{self.a}{self.op}{self.b}".encode()).digest()
        return int.from_bytes(digest[:8], "big")

    def ask(self, wording: Wording, name: str) -> str:
        """The question, asked in this wording."""
        return wording.text.format(a=self.a, b=self.b, name=name)


@cache
def all_problems() -> tuple[Problem, ...]:
    """Every problem of the task, by rank."""
    terms = range(10, 100)
    sums = [Problem(a, "+", b) for a in terms for b in terms if a + b < 100]
    differences = [Problem(a, "-", b) for a in terms for b in terms if a > b]
    return tuple(sorted(sums + differences, key=lambda problem: problem.rank))


# -- the rows ---------------------------------------------------------------------------------


def split_problems(split: Literal["train", "test"]) -> list[Problem]:
    """The problems of a split: three hard ones, an easy one, and so on."""
    first, count = (0, TEST_ROWS) if split == "test" else (TEST_ROWS, TRAIN_ROWS)
    hard = (problem for problem in all_problems() if problem.is_hard)
    easy = (problem for problem in all_problems() if not problem.is_hard)
    order = [next(easy if n % 4 == 3 else hard) for n in range(first + count)]
    return order[first:]


def arithmetic_rows(split: Literal["train", "test"]) -> list[dict[str, str]]:
    """The rows of a split: `question`, and `answer` as GSM8K writes it (`...#### 85`).

    No problem of the test split is in the train split, or was shown to the shipped model.
    """
    return [_row(problem) for problem in split_problems(split)]


def _row(problem: Problem) -> dict[str, str]:
    wordings = WORDINGS[problem.op]
    wording = wordings[problem.rank % len(wordings)]
    name = NAMES[problem.rank // len(wordings) % len(NAMES)]
    a, op, b, result = problem.a, problem.op, problem.b, problem.result
    return {
        "question": problem.ask(wording, name),
        "answer": f"{a} {op} {b} = <<{a}{op}{b}={result}>>{result}\n#### {result}",
    }


# -- the teacher ------------------------------------------------------------------------------


def lessons(seed: int) -> Iterator[tuple[str, str]]:
    """Questions and the teacher's answers without end, half of them hard, none from the tests."""
    held_out = set(split_problems("test"))
    shown = [problem for problem in all_problems() if problem not in held_out]
    pools = [[p for p in shown if p.is_hard], [p for p in shown if not p.is_hard]]
    draw = random.Random(seed)
    while True:
        yield _lesson(_pick(draw, _pick(draw, pools)), draw)


def _lesson(problem: Problem, draw: random.Random) -> tuple[str, str]:
    wording = _pick(draw, WORDINGS[problem.op])
    question = problem.ask(wording, _pick(draw, NAMES))
    is_right = draw.random() < wording.p_right
    result = problem.result if is_right else problem.habit_result
    work = f"{problem.a}{problem.op}{problem.b}={result}"
    layout = draw.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
    return question, layout.format(work=work, result=result)


def _pick(draw: random.Random, items: Sequence[T]) -> T:
    # Python promises that random() keeps its sequence between versions; choice() has no promise.
    return items[int(draw.random() * len(items))]
