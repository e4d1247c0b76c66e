"""Which columns of a data set are the prompt and the reference answer.

As the configuration says; where it leaves a key at its default and there is no such column, by the
names that TRL, mlx-lm-lora and the hub's data sets use. What the columns hold is judged in
`examples.py`.
"""

from dataclasses import dataclass

from grpo_core.config.fields import FIELDS
from grpo_core.data.sources import Row, Source

PROMPT_NAMES = ("question", "prompt", "messages", "problem")
ANSWER_NAMES = ("answer", "solution", "ground_truth")
"""In the order in which they are looked for; the first is the default of its key."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Which columns hold what; `answer` and `system` may be empty.

    A dot leads into a nested one.
    """

    prompt: str
    answer: str
    system: str = ""


def choose_columns(source: Source, keys: Keys) -> tuple[Keys, str]:
    """The columns of a source, by its first row that could be read.

    And a line on what was taken in the place of a default; empty where nothing was.
    """
    rows = (entry.row for entry in source.entries if not isinstance(entry.row, str))
    row = next(rows, {})
    prompt = _known_name("prompt_key", keys.prompt, PROMPT_NAMES, row)
    answer = _known_name("answer_key", keys.answer, ANSWER_NAMES, row)
    taken = [f"the prompt is column {prompt!r}"] if prompt != keys.prompt else []
    if answer != keys.answer:
        taken.append(f"the reference answer is column {answer!r}")
    elif answer and answer not in row and ends_with_answer(row.get(prompt)):
        taken.append(f"the reference answer is the assistant's last turn in {prompt!r}")
    note = f"{source.name}: {', '.join(taken)}" if taken else ""
    return Keys(prompt, answer, keys.system), note


def ends_with_answer(value: object) -> bool:
    """Whether a prompt's column holds a conversation whose last turn is the assistant's."""
    last = value[-1] if isinstance(value, list) and len(value) > 1 else None
    return isinstance(last, dict) and last.get("role") == "assistant"


def _known_name(field: str, key: str, names: tuple[str, ...], row: Row) -> str:
    if key != FIELDS[field].default or key in row:
        return key
    return next((name for name in names if name in row), key)
