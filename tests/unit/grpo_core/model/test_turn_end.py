"""What ends a completion: the model's end tokens, and what closes a turn of its template."""

import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.model.turn_end import end_tokens
from tests.byte_tokenizer import byte_tokenizer

EOS, START = 257, 256
TURN = "{%- for m in messages %}{{ m.role + ':' + m.content + END + '\\n' }}{%- endfor %}"


def ends(template, eos=EOS, **fields):
    tokenizer = byte_tokenizer(template)
    tokenizer.eos_token_ids = [] if eos is None else [eos]
    return end_tokens(tokenizer, MLXGRPOConfig(**fields))


@pytest.mark.parametrize(
    "template",
    [
        TURN.replace("END", "'</s>'"),
        TURN.replace("END", "''"),
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ raise_exception('no') }}"
        "{% endif %}{% endfor %}",
        None,
    ],
    ids=["its own", "a line feed", "prompts only", "none"],
)
def test_a_template_that_closes_with_nothing_else_changes_nothing(template):
    """Nor is anything said."""
    found = ends(template)
    assert (found.ids, found.notes) == ({EOS}, ())


def test_the_token_that_closes_a_turn_ends_a_completion_and_is_said():
    """The model would write the next turns as well, and be rewarded for them."""
    found = ends(TURN.replace("END", "' <s>'"))
    assert found.ids == {EOS, START}
    (line,) = found.notes
    assert "<s>" in line and "</s>" in line and "stop_at_turn_end" in line


def test_an_end_token_that_the_tokenizer_does_not_have_is_said_by_its_number():
    """As in a config.json that was written for a larger vocabulary."""
    found = ends(TURN.replace("END", "'<s>'"), eos=9_999)
    assert found.ids == {9_999, START}
    assert "end token: 9999" in found.notes[0]


def test_the_token_that_closes_a_turn_can_be_refused():
    """Then the model's own end tokens count alone."""
    found = ends(TURN.replace("END", "'<s>'"), stop_at_turn_end=False)
    assert found.ids == {EOS}
    assert "ends no completion" in found.notes[0]


def test_a_model_without_any_end_token_is_said():
    """Every completion would run to its limit; a stop text is as good."""
    (line,) = ends(None, eos=None).notes
    assert "no end token" in line
    assert ends(None, eos=None, stop=["x"]).notes == ()
