"""Expressions in tests: a small environment, a value, and the message of a refusal."""

import pytest

from orchestrator.errors import SpecError
from orchestrator.space.expressions import parse

ENV = {
    "lora_rank": 8,
    "batch_size": 4,
    "learning_rate": 1e-05,
    "kl_coeff": 0.0,
    "loss_type": "dapo",
    "use_compile": True,
    "rewards": ["correctness", "int"],
}


def value(text, **more):
    """The value of a text where the fields are as ENV and `more` say."""
    return parse(text, ENV).evaluate({**ENV, **more})


def fault(text, **more):
    """The message with which a text is refused, on reading or on evaluation."""
    with pytest.raises(SpecError) as caught:
        value(text, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)
