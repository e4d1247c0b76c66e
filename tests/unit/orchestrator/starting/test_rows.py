"""Which columns of a file of rows are taken for the prompt and the answer."""

import json

import pytest

from orchestrator.errors import UsageError
from orchestrator.starting.rows import ANSWER_NAMES, PROMPT_NAMES, look
from tests.sweep_kit import write_lines


def columns(tmp_path, *rows):
    """The guessed prompt and answer of some rows."""
    write_lines(tmp_path / "rows.jsonl", rows)
    found = look(tmp_path / "rows.jsonl")
    prompt = found.guess(PROMPT_NAMES)
    return prompt, found.guess(ANSWER_NAMES, other=prompt)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"question": "a", "answer": "b"}, ("question", "answer")),
        ({"id": 1, "Problem": "a", "Solution": "b"}, ("Problem", "Solution")),
        ({"instruction": "a", "output": "b"}, ("instruction", "output")),
        ({"messages": [{"role": "user", "content": "a"}], "target": 1}, ("messages", "target")),
        ({"text": "a", "label": "b"}, (None, "label")),
        ({"input": "a"}, ("input", None)),
    ],
)
def test_columns_are_found_by_what_people_call_them(tmp_path, row, wanted):
    """In any case; where none is known, nobody guesses."""
    assert columns(tmp_path, row) == wanted


def test_a_column_must_stand_in_every_row(tmp_path):
    """One that the second row lacks would fail at night."""
    assert columns(tmp_path, {"prompt": "a", "question": "b", "answer": "c"},
                   {"prompt": "d", "answer": "e"}) == ("prompt", "answer")  # fmt: skip


def test_what_the_first_row_holds_is_shown_on_one_line(tmp_path):
    """Cut where it is long; of messages the last one."""
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "two\n lines"}]
    write_lines(tmp_path / "a.jsonl", [{"messages": chat, "answer": "x" * 300}])
    found = look(tmp_path / "a.jsonl")
    assert found.shown("messages") == "two lines"
    assert found.shown("answer") == "x" * 200 + " …"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", "", "holds no rows"),
        ("a.jsonl", '{"a": 1}\nno\n', "a.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]\n", "a.jsonl:1: a row is an object"),
        ("a.jsonl", '{"a": 1}\n{"b": 1}\n', "no column in common"),
        ("a.csv", "a,b\n", ".jsonl and .parquet"),
        ("a.parquet", "no", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_message(tmp_path, name, text, words):
    """With its place."""
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=words.replace(".", r"\.")):
        look(tmp_path / name)


def test_parquet_is_looked_at_too(tmp_path):
    """Its first rows, as those of a JSONL file."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt": ["a"] * 100, "answer": list(range(100))})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = look(tmp_path / "a.parquet")
    assert found.columns == ["prompt", "answer"]
    assert json.dumps(found.rows[1]) == '{"prompt": "a", "answer": 1}'
