"""Which columns are taken where a data set does not use our names."""

import pytest

from grpo_core.data.columns import Keys, choose_columns
from grpo_core.data.sources import Entry, Source

DEFAULT = Keys("question", "answer")
CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def chosen(row, prompt_key="question", answer_key="answer"):
    source = Source("d.jsonl", [Entry("d.jsonl:1", row)])
    return choose_columns(source, Keys(prompt_key, answer_key, "s"))


@pytest.mark.parametrize(
    ("row", "prompt", "answer", "note"),
    [
        ({"question": "q", "answer": "1", "prompt": "p"}, "question", "answer", ""),
        # TRL's accuracy reward, and its guide on custom rewards.
        (
            {"prompt": "p", "solution": "1"},
            *("prompt", "solution"),
            "d.jsonl: the prompt is column 'prompt', the reference answer is column 'solution'",
        ),
        (
            {"prompt": "p", "ground_truth": "1"},
            *("prompt", "ground_truth"),
            "d.jsonl: the prompt is column 'prompt', the reference answer is column 'ground_truth'",
        ),
        # mlx-lm-lora's GRPO.
        (
            {"prompt": "p", "answer": "1", "system": "s"},
            *("prompt", "answer"),
            "d.jsonl: the prompt is column 'prompt'",
        ),
        (
            {"messages": CHAT},
            *("messages", "answer"),
            "d.jsonl: the prompt is column 'messages', "
            "the reference answer is the assistant's last turn in 'messages'",
        ),
        ({"text": "p"}, "question", "answer", ""),
    ],
)
def test_known_names_are_taken_and_told(row, prompt, answer, note):
    """One line; nothing is said where the columns have our names."""
    assert chosen(row) == (Keys(prompt, answer, "s"), note)


def test_a_name_that_the_user_gave_is_never_replaced():
    """A slip of the pen is a fault of the rows, not a guess."""
    row = {"prompt": "p", "solution": "1"}
    assert chosen(row, "promt", "result") == (Keys("promt", "result", "s"), "")
    assert chosen(row, answer_key="")[0].answer == ""


def test_rows_that_cannot_be_read_do_not_decide():
    """The first that can be read does; without any the keys stay."""
    source = Source("d", [Entry("d:1", "not valid JSON"), Entry("d:2", {"prompt": "p"})])
    assert choose_columns(source, DEFAULT)[0].prompt == "prompt"
    assert choose_columns(Source("d", []), DEFAULT) == (DEFAULT, "")
