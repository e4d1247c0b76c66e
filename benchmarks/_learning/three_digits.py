"""The harder task: sums of three-digit numbers, and a model that has the habit of dropping carries.

    python -m benchmarks._learning.three_digits FOLDER

makes the model from the embedded one by lessons of three teachers: one who takes each column by
itself, one who carries, and shortly one with the habit again. So it could carry, and hardly ever
does: it writes the right answer to nearly no problem that carries and to nearly all of the others,
and most groups are flat, on either side.
"""

import hashlib
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

from grpo_core.data.arithmetic import LAYOUTS, NAMES, WORDINGS


@dataclass(frozen=True)
class Teacher:
    """How many batches of lessons, what share of them carries, and how often he does then."""

    batches: int
    hard: float
    p_right: float
    learning_rate: float


TEACHERS = (
    Teacher(800, hard=0.5, p_right=0.1, learning_rate=3e-3),
    Teacher(500, hard=0.7, p_right=1.0, learning_rate=3e-3),
    Teacher(60, hard=0.7, p_right=0.03, learning_rate=2e-3),
)
SEED, WARMUP = 5, 50
TEST_ROWS, TRAIN_ROWS = 400, 2000


def by_columns(a: int, b: int) -> int:
    """The sum without any carry."""
    return sum((a // m % 10 + b // m % 10) % 10 * m for m in (1, 10, 100))


@cache
def problems() -> tuple[tuple[int, int], ...]:
    """Pairs whose sum has three digits, in an order that is the same everywhere; every 37th one."""
    pairs = [(a, b) for a in range(100, 900) for b in range(100, 1000 - a)]
    pairs.sort(key=lambda pair: hashlib.sha256(repr(pair).encode()).digest())
    return tuple(pairs[::37])


def rows() -> dict[str, list[dict[str, str]]]:
    """Both splits: three problems that carry, one that does not, and so on."""
    hard = (pair for pair in problems() if by_columns(*pair) != sum(pair))
    easy = (pair for pair in problems() if by_columns(*pair) == sum(pair))
    order = [next(easy if n % 4 == 3 else hard) for n in range(TEST_ROWS + TRAIN_ROWS)]
    made = [_row(n, a, b) for n, (a, b) in enumerate(order)]
    return {"test": made[:TEST_ROWS], "train": made[TEST_ROWS:]}


def _row(number: int, a: int, b: int) -> dict[str, str]:
    wording = WORDINGS["+"][number % len(WORDINGS["+"])]
    question = wording.text.format(a=a, b=b, name=NAMES[number % len(NAMES)])
    return {"question": question, "answer": f"#### {a + b}"}


def lessons(teacher: Teacher) -> Iterator[tuple[str, str]]:
    """Questions and the teacher's answers without end."""
    draw = random.Random(SEED)
    while True:
        carries = draw.random() < teacher.hard
        a, b = _pair(draw)
        while (by_columns(a, b) != a + b) != carries:
            a, b = _pair(draw)
        wording = WORDINGS["+"][int(draw.random() * len(WORDINGS["+"]))]
        question = wording.text.format(a=a, b=b, name=NAMES[int(draw.random() * len(NAMES))])
        result = a + b if draw.random() < teacher.p_right else by_columns(a, b)
        layout = draw.choices(list(LAYOUTS), list(LAYOUTS.values()))[0]
        yield question, layout.format(work=f"{a}+{b}={result}", result=result)


def _pair(draw: random.Random) -> tuple[int, int]:
    """Two terms whose sum has three digits, each such pair as likely as any other."""
    while True:
        a, b = (100 + int(draw.random() * 800) for _ in range(2))
        if a + b < 1000:
            return a, b


def build(folder: Path) -> None:
    """Teach the embedded model; some minutes of one core."""
    # Only here: the tasks are read without MLX as well.
    from mlx_lm import load
    from tokenizers import Tokenizer

    from grpo_core.blas.library import find
    from grpo_core.blas.session import install
    from grpo_core.model.tiny import model_path
    from grpo_core.model.tiny_build import save_model
    from grpo_core.run.atomic import new_folder

    install(find())
    model, _ = load(str(model_path()))
    tokenizer = Tokenizer.from_file(str(model_path() / "tokenizer.json"))
    for teacher in TEACHERS:
        teach(model, tokenizer, teacher)
    with new_folder(folder) as beside:
        save_model(beside, tokenizer, model)


def teach(model: Any, tokenizer: Any, teacher: Teacher) -> None:
    """All lessons of one teacher."""
    import mlx.core as mx
    import mlx.nn as nn
    import mlx.optimizers as optim

    from grpo_core.model.tiny_build import lesson_batches, lesson_loss

    count, peak = teacher.batches, teacher.learning_rate
    optimizer = optim.AdamW(peak, weight_decay=0.01, bias_correction=True)
    loss_and_grad = nn.value_and_grad(model, lesson_loss)
    batches = lesson_batches(tokenizer, lessons(teacher), 0)
    for step, batch in enumerate(islice(batches, count), start=1):
        optimizer.learning_rate = peak * min(1, step / WARMUP) * max(0.02, 1 - step / count)
        loss, grads = loss_and_grad(model, *(mx.array(part) for part in batch))
        optimizer.update(model, grads)
        mx.eval(model.parameters(), optimizer.state)
    print(f"{count} batches of lessons, loss {loss.item():.3f}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
