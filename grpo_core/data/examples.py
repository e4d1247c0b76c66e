"""Rows -> examples: the prompt and the reference answer in each row, and what is wrong with it.

Judges columns by the two keys of the configuration. All rows are looked at before anything is
said, so that one message names the faults of a whole file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grpo_core.config import did_you_mean
from grpo_core.data.answers import reference_answer
from grpo_core.data.sources import Entry, Row, Source
from grpo_core.errors import DataError

Message = dict[str, Any]

FAULTS_SHOWN = 5
# Whose turn it may be before the model's; a system message alone asks nothing.
LAST_ROLES = ("user", "tool")


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    `index` counts the rows of its source from 0; `line` names the row in messages
    (`train.jsonl:17`); `answer` is the reference answer without GSM8K's working; `row` holds every
    column.
    """

    index: int
    prompt: str | list[Message]
    answer: str
    row: Row
    line: str


class _Fault(Exception):
    """What is wrong with one row."""


def to_examples(source: Source, prompt_key: str, answer_key: str) -> list[Example]:
    """Every row of a source as an example; DataError with the faults of all rows."""
    examples, faults = [], []
    for index, entry in enumerate(source.entries):
        try:
            examples.append(_example(index, entry, prompt_key, answer_key))
        except _Fault as fault:
            faults.append((entry.line, str(fault)))
    if faults:
        raise DataError(_fault_report(source, faults))
    return examples


def _fault_report(source: Source, faults: list[tuple[str, str]]) -> str:
    texts = {text for _, text in faults}
    if len(texts) == 1 and len(faults) == len(source.entries) > 1:
        return f"{source.name}: {texts.pop()} (in every one of {len(faults)} rows)"
    lines = [f"{line}: {text}" for line, text in faults[:FAULTS_SHOWN]]
    more = len(faults) - FAULTS_SHOWN
    if more > 0:
        lines.append(f"{source.name}: and {more} more of {len(source.entries)} rows at fault")
    return "\n".join(lines)


def _example(index: int, entry: Entry, prompt_key: str, answer_key: str) -> Example:
    row = entry.row
    if isinstance(row, str):
        raise _Fault(row)
    prompt = _prompt(_column(row, prompt_key, "prompt_key"), prompt_key)
    answer = _answer(_column(row, answer_key, "answer_key"), answer_key)
    return Example(index, prompt, answer, row, entry.line)


def _column(row: Row, key: str, field: str) -> Any:
    if key in row:
        return row[key]
    there = f"columns are {', '.join(row)}" if row else "the row has no columns"
    near = did_you_mean(key, row)
    raise _Fault(f"no column {key!r}; {there}; {field} names the column to use{near}")


def _prompt(value: Any, key: str) -> str | list[Message]:
    if isinstance(value, str):
        return _text(value, f"column {key!r}")
    if isinstance(value, list):
        return _messages(value, key)
    kind = "empty (null)" if value is None else f"of type {type(value).__name__}"
    raise _Fault(f"column {key!r} is {kind}, neither text nor a list of chat messages")


def _messages(value: list[Any], key: str) -> list[Message]:
    if not value:
        raise _Fault(f"column {key!r} is an empty list of messages")
    messages = [_message(item, f"message {n} of column {key!r}") for n, item in enumerate(value, 1)]
    last = messages[-1]["role"]
    if last not in LAST_ROLES:
        raise _Fault(f"the last message of column {key!r} is the {last}'s; a user's must end it")
    return messages


def _message(value: Any, what: str) -> Message:
    if not isinstance(value, Mapping):
        raise _Fault(f"{what} is of type {type(value).__name__}, not {{role, content}}")
    for name in ("role", "content"):
        if not isinstance(value.get(name), str):
            raise _Fault(f"{what} has no text {name!r}")
    _text(value["content"], what)
    # Parquet gives every message the keys of all, null where a message has none.
    return {name: part for name, part in value.items() if part is not None}


def _answer(value: Any, key: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = "empty (null)" if value is None else f"of type {type(value).__name__}"
        raise _Fault(f"column {key!r} is {kind}, neither text nor a number")
    text = _text(str(value), f"column {key!r}")
    answer = reference_answer(text)
    if not answer:
        raise _Fault(f"column {key!r} has nothing after its last ####")
    return answer


def _text(value: str, what: str) -> str:
    if not value.strip():
        raise _Fault(f"{what} is an empty text")
    try:
        value.encode()
    except UnicodeEncodeError as e:
        raise _Fault(f"{what} holds half a character (a lone surrogate) at {e.start}") from None
    return value
