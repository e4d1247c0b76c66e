"""Which prompts an update draws for, where those that taught nothing before come less often. Pure.

GRESO ("Act Only When It Pays", arXiv 2506.02177): a prompt whose groups were flat z times in a row
is drawn with probability p^z, so that it may come back. The paper adapts p to a wanted share of
flat groups; here it is a setting.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from grpo_core.model.random_keys import derive_key

T = TypeVar("T")


def is_drawn(
    row: int, flat_in_a_row: Mapping[str, int], chance: float, seed: int, update: int
) -> bool:
    """Whether an update draws for a row, by how often its groups were flat in a row.

    Of `flat_in_a_row` the keys are rows as texts, as in JSON. The toss is made of seed, update and
    row alone.
    """
    toss, _ = derive_key("pass over", seed, update, row)
    return toss / 2**32 < chance ** flat_in_a_row.get(str(row), 0)


def count_flat(flat_in_a_row: dict[str, int], drawn: Mapping[int, bool]) -> None:
    """Takes in which rows' groups were flat; a row that taught something starts at nothing."""
    for row, is_flat in drawn.items():
        if is_flat:
            flat_in_a_row[str(row)] = flat_in_a_row.get(str(row), 0) + 1
        else:
            flat_in_a_row.pop(str(row), None)


def choose_prompts(
    own: Sequence[T], others: Iterator[T], draws: Callable[[T], bool]
) -> tuple[list[T], int]:
    """What an update draws for, and how many of its `own` prompts were passed over.

    In the place of such a prompt comes the next of `others`; without any left it keeps its place.
    """
    chosen, passed_over = [], 0
    for prompt in own:
        other = None if draws(prompt) else next(others, None)
        passed_over += other is not None
        chosen.append(prompt if other is None else other)
    return chosen, passed_over
