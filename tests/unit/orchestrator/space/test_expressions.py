"""Expressions as a whole: conditions, and that no text does harm."""

import contextlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import SpecError
from orchestrator.space.expression_functions import FUNCTIONS
from orchestrator.space.expressions import parse
from tests.expression_kit import ENV, value


def test_a_condition_must_be_true_or_false():
    """A number is no condition, whatever Python thinks of it."""
    with pytest.raises(SpecError, match=r"'lora_rank': gives 8, a number; a condition must be"):
        parse("lora_rank", ENV).holds(ENV)


PIECES = [
    *ENV,
    *FUNCTIONS,
    *"+-*/%()[]{}<>=!&|^~.,:;'\"\\#@$?`_ \t\n",
    *("**", "//", "==", "and", "or", "not", "in", "is", "if", "else", "lambda", "for", "None"),
    *("1", "0", "2.5", "1e-5", "1e308", "99999999999999999999", "0x1f", "1j", "True", "true"),
    *("__import__", "os", "__class__", "'a'", '"b"', "f'{1}'", "b'x'", "\x00", "\x1b", "é", "𝐱"),
    *("\ud800", "10**10**10", "'a'*9999999", "1<<9999", ":=", "yield", "await", "\u2028"),
]
GOOD = [
    "lora_rank * batch_size <= 64",
    "32 / lora_rank",
    "loss_type in ['grpo', 'dapo'] and kl_coeff > 0",
    "max(lora_rank, batch_size) ** 2 > 10 or not use_compile",
    "1e-5 if loss_type == 'dapo' else 10 ** -6",
]


def _mutated(rng):
    """A good text with a few pieces dropped, doubled or put in."""
    text = list(rng.choice(GOOD))
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(text) + 1)
        text[at : at + rng.randint(0, 3)] = rng.choice(([], [rng.choice(PIECES)]))
    return "".join(text)


def test_ten_thousand_random_texts_only_ever_raise_our_error():
    """Soup of tokens and mutated good texts: a value or a SpecError of one line."""
    rng = random.Random(6)
    texts = [
        "".join(rng.choices(PIECES, k=rng.randint(1, 12))) if rng.random() < 0.5 else _mutated(rng)
        for _ in range(10_000)
    ]
    values = 0
    for text in texts:
        try:
            value(text)
            values += 1
        except SpecError as e:
            assert "\n" not in str(e)
    assert values > 100  # The soup holds good texts too.


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_any_unicode_text_is_a_value_or_our_error(text):
    """Whatever stands in a file."""
    with contextlib.suppress(SpecError):
        value(text)
