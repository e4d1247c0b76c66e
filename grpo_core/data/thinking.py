"""The block in which a model thinks before it answers, `<think>...</think>` and its like. Pure.

Some chat templates open it themselves, so that a prompt ends with `<think>` and the completion has
only its end. What rewards get begins with what was opened; the answer is what follows the block.
"""

import re

# How models and templates write the beginning, and the end.
BLOCKS = {
    "<think>": "</think>",
    "<thinking>": "</thinking>",
    "<thought>": "</thought>",
    "<longcat_think>": "</longcat_think>",
    "<seed:think>": "</seed:think>",
    "<|think:start|>": "<|think:end|>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "<channel|>",
    "[THINK]": "[/THINK]",
}


def opened_by(prompt: str) -> str:
    """The thinking block that the end of a prompt opens, to its end (`<think>\\n`); "" for none."""
    written = prompt.rstrip()
    tag = next((tag for tag in BLOCKS if written.endswith(tag)), "")
    return prompt[len(written) - len(tag) :] if tag else ""


def begin_answer(prompt: str, prefix: str) -> tuple[str, str]:
    """What is put behind a rendered prompt, and what the text of an answer to it begins with.

    Both are the prefix, unless the prompt opens a block: then the text begins with that. A prefix
    that opens the same block adds what it has more; one that opens another tag is left out, since
    it would stand within.
    """
    opened = opened_by(prompt)
    if not opened:
        return prefix, prefix
    tag = opened.rstrip()
    if prefix.lstrip().startswith(tag):
        more = prefix.lstrip().removeprefix(tag).removeprefix(opened.removeprefix(tag))
    else:
        more = "" if re.match(r"\s*[<\[]", prefix) else prefix
    return more, opened + more


def answer_of(text: str) -> str:
    """What follows a thinking block that opens the text; all of it where none does.

    Nothing where the block has no end.
    """
    start = text.lstrip()
    close = next((end for begin, end in BLOCKS.items() if start.startswith(begin)), None)
    return text if close is None else start.partition(close)[2].lstrip()
