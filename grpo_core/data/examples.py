"""Rows -> examples: the prompt and the reference answer in each row, and what is wrong with it.

Judges columns by the two keys of the configuration. All rows are looked at before anything is
said, so that one message names the faults of a whole file.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.config import did_you_mean
from grpo_core.data.answers import reference_answer
from grpo_core.data.columns import Keys, ends_with_answer
from grpo_core.data.sources import Entry, Row, Source
from grpo_core.errors import DataError

Message = dict[str, Any]

FAULTS_SHOWN = 5
_NOWHERE = object()
# Where data sets keep a system message.
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message")
# Whose turn it may be before the model's; a system message alone asks nothing.
LAST_ROLES = ("user", "tool")


@dataclass(frozen=True, slots=True)
class Example:
    """One row of a data set.

    `index` counts the rows of its source from 0; `line` names the row in messages
    (`train.jsonl:17`); `answer` is the reference answer without GSM8K's working, None where the
    rows have none; `row` holds every column; `system` is the row's own system message, or empty.
    """

    index: int
    prompt: str | list[Message]
    answer: str | None
    row: Row
    line: str
    system: str = ""


class _Fault(Exception):
    """What is wrong with one row."""


def to_examples(source: Source, keys: Keys) -> list[Example]:
    """Every row of a source as an example; DataError with the faults of all rows.

    Without an answer column, an assistant's last turn is the reference answer.
    """
    examples, faults = [], []
    for index, entry in enumerate(source.entries):
        try:
            examples.append(_example(index, entry, keys))
        except _Fault as fault:
            faults.append((entry.line, str(fault)))
    if faults:
        raise DataError(_fault_report(source, faults))
    return examples


def row_notes(examples: Sequence[Example], keys: Keys) -> list[str]:
    """Lines about rows that are legal, and perhaps not what was meant."""
    notes = []
    plain = sum("####" not in str(_find(example.row, keys.answer)) for example in examples)
    if 0 < plain < len(examples):
        notes.append(
            f"{plain} of {len(examples)} answers have no ####, unlike the others: their whole text "
            "is the reference answer"
        )
    texts = (_find(example.row, keys.prompt) for example in examples)
    as_json = sum(isinstance(text, str) and _messages_in(text) is not None for text in texts)
    if as_json:
        notes.append(f"{as_json} prompts are chat messages written as JSON, and are read as such")
    unread = next((name for name in SYSTEM_COLUMNS if name in examples[0].row), "")
    if unread and not keys.system and unread not in (keys.prompt, keys.answer):
        notes.append(
            f"the column {unread!r} goes to rewards only; system_key = {unread!r} makes it each "
            "row's system message, in place of system_prompt"
        )
    return notes


def _fault_report(source: Source, faults: list[tuple[str, str]]) -> str:
    texts = {text for _, text in faults}
    if len(texts) == 1 and len(faults) == len(source.entries) > 1:
        return f"{source.name}: {texts.pop()} (in every one of {len(faults)} rows)"
    lines = [f"{line}: {text}" for line, text in faults[:FAULTS_SHOWN]]
    more = len(faults) - FAULTS_SHOWN
    if more > 0:
        lines.append(f"{source.name}: and {more} more of {len(source.entries)} rows at fault")
    return "\n".join(lines)


def _example(index: int, entry: Entry, keys: Keys) -> Example:
    row = entry.row
    if isinstance(row, str):
        raise _Fault(row)
    given, written = _column(row, keys.prompt, "prompt_key"), None
    if isinstance(given, str):
        given = _messages_in(given) or given
    if ends_with_answer(given):
        *given, last = given
        written = last.get("content")
    prompt = _prompt(given, keys.prompt)
    answer = _reference(row, keys, written)
    system = _system(_column(row, keys.system, "system_key"), keys.system) if keys.system else ""
    return Example(index, prompt, answer, row, entry.line, system)


def _reference(row: Row, keys: Keys, written: Any) -> str | None:
    """The reference answer: of its column, else the assistant's last turn that was `written`."""
    if not keys.answer:
        return None
    if written is not None and _find(row, keys.answer) is _NOWHERE:
        return _answer(written, keys.prompt)
    return _answer(_column(row, keys.answer, "answer_key"), keys.answer)


def _column(row: Row, key: str, field: str) -> Any:
    found = _find(row, key)
    if found is not _NOWHERE:
        return found
    names = list(_column_names(row))
    there = f"columns are {', '.join(names)}" if names else "the row has no columns"
    near = did_you_mean(key, names)
    if field == "answer_key":
        near += ', and answer_key = "" says that there are no reference answers'
    raise _Fault(f"no column {key!r}; {there}; {field} names the column to use{near}")


def _find(row: Row, key: str) -> Any:
    """The column of that name, else what the path `a.b.0` leads to, else _NOWHERE."""
    if key in row:
        return row[key]
    value: Any = row
    for part in key.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _NOWHERE
    return value


def _column_names(row: Row) -> Iterator[str]:
    """Every column, a nested one by the paths into it."""
    for name, value in row.items():
        if isinstance(value, Mapping) and value:
            yield from (f"{name}.{inner}" for inner in _column_names(value))
        else:
            yield name


def _system(value: Any, key: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _Fault(f"column {key!r} is of type {type(value).__name__}, not a text")
    return _text(value, f"column {key!r}") if value.strip() else ""


def _prompt(value: Any, key: str) -> str | list[Message]:
    if isinstance(value, str):
        return _text(value, f"column {key!r}")
    if isinstance(value, list):
        return _messages(value, key)
    kind = "empty (null)" if value is None else f"of type {type(value).__name__}"
    raise _Fault(f"column {key!r} is {kind}, neither text nor a list of chat messages")


def _messages_in(text: str) -> list[Any] | None:
    """The chat messages that a text holds as JSON; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_chat = isinstance(value, list) and value and all(map(_looks_like_message, value))
    return value if is_chat else None


def _looks_like_message(value: Any) -> bool:
    return isinstance(value, Mapping) and {"role", "content"} <= value.keys()


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
