"""What is wrong with a row, and how the faults of a file are told."""

import pytest

from grpo_core.data.columns import Keys
from grpo_core.data.examples import row_notes, to_examples
from grpo_core.data.sources import Entry, Source
from grpo_core.errors import DataError

GOOD = {"question": "q", "answer": "1"}


def convert(*rows, prompt_key="question", answer_key="answer", system_key=""):
    entries = [Entry(f"data.jsonl:{n}", row) for n, row in enumerate(rows, 1)]
    return to_examples(Source("data.jsonl", entries), Keys(prompt_key, answer_key, system_key))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("work\n#### 72", "72"), (72, "72"), (1.5, "1.5"), (" Paris ", "Paris")],
)
def test_answers_are_texts_or_numbers(answer, expected):
    """GSM8K's working is left out."""
    (example,) = convert({"question": "q", "answer": answer})
    assert example.answer == expected


def test_columns_are_chosen_by_their_keys():
    """Any data set by two names; every column stays in the row."""
    row = {"problem": "p", "solution": "2", "level": 5}
    (example,) = convert(row, prompt_key="problem", answer_key="solution")
    assert (example.prompt, example.answer, example.row) == ("p", "2", row)


def test_chat_messages_are_a_prompt():
    """As they are, but for the nulls by which Parquet fills up a message."""
    messages = [
        {"role": "user", "content": "a", "name": None},
        {"role": "assistant", "content": "b", "name": None},
        {"role": "user", "content": "c", "name": "d"},
    ]
    (example,) = convert({"question": messages, "answer": "1"})
    assert example.prompt == [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c", "name": "d"},
    ]


USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "so #### 4"}


def test_a_conversation_that_ends_with_the_assistant_is_prompt_and_answer():
    """Its last turn is the reference answer, and no part of the prompt."""
    (example,) = convert({"question": [USER, ANSWER]})
    assert (example.prompt, example.answer) == ([USER], "4")


def test_an_answer_column_counts_more_than_the_last_turn():
    """The model never sees that turn all the same."""
    (example,) = convert({"question": [USER, ANSWER], "answer": "5"})
    assert (example.prompt, example.answer) == ([USER], "5")


def test_without_an_answer_key_there_is_no_reference_answer():
    """Whatever columns and turns there are."""
    for question in ("q", [USER, ANSWER]):
        (example,) = convert({"question": question, "answer": "1"}, answer_key="")
        assert example.answer is None


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"question": None}, "column 'question' is empty (null), neither text nor a list of chat"),
        ({"question": 3}, "column 'question' is of type int, neither text nor a list of chat"),
        ({"question": " \n"}, "column 'question' is an empty text"),
        (
            {"question": "a\ud800"},
            "column 'question' holds half a character (a lone surrogate) at 1",
        ),
        ({"question": []}, "column 'question' is an empty list of messages"),
        ({"question": ["a"]}, "message 1 of column 'question' is of type str, not {role, content}"),
        ({"question": [USER, {"role": "user"}]}, "message 2 of column 'question' has no text 'con"),
        ({"question": [{"content": "a"}]}, "message 1 of column 'question' has no text 'role'"),
        (
            {"question": [{**USER, "content": ""}]},
            "message 1 of column 'question' is an empty text",
        ),
        (
            {"question": [USER, {"role": "assistant", "content": "b"}] * 2 + [{"role": "system"}]},
            "message 5 of column 'question' has no text 'content'",
        ),
        (
            {"question": [{"role": "assistant", "content": "b"}]},
            "the last message of column 'question' is the assistant's; a user's must end it",
        ),
        (
            {"question": [USER, {"role": "assistant", "content": "b"}] * 2 + [ANSWER]},
            "the last message of column 'question' is the assistant's; a user's must end it",
        ),
        ({"answer": None}, "column 'answer' is empty (null), neither text nor a number"),
        ({"answer": ["1"]}, "column 'answer' is of type list, neither text nor a number"),
        ({"answer": True}, "column 'answer' is of type bool, neither text nor a number"),
        ({"answer": ""}, "column 'answer' is an empty text"),
        ({"answer": "work ####"}, "column 'answer' has nothing after its last ####"),
    ],
)
def test_a_row_at_fault_is_named_with_what_is_wrong(changes, fault):
    """By file and line; the rows beside it are in order."""
    with pytest.raises(DataError) as error:
        convert(GOOD, GOOD | changes, GOOD)
    assert str(error.value).startswith(f"data.jsonl:2: {fault}")


def test_a_missing_column_is_told_with_those_there_are():
    """And with the field that names it, and the nearest column."""
    with pytest.raises(DataError) as error:
        convert(GOOD, {"questions": "q", "answer": "1"})
    assert str(error.value) == (
        "data.jsonl:2: no column 'question'; columns are questions, answer; "
        "prompt_key names the column to use; did you mean questions?"
    )


def test_a_column_missing_everywhere_is_told_once():
    """Not five times."""
    with pytest.raises(DataError) as error:
        convert(*[{"question": "q", "solution": "1"}] * 100)
    assert str(error.value) == (
        "data.jsonl: no column 'answer'; columns are question, solution; "
        'answer_key names the column to use, and answer_key = "" says that there are no reference '
        "answers (in every one of 100 rows)"
    )


def test_five_rows_at_fault_are_named_and_the_others_counted():
    """Faults of reading and of columns together, in the order of the file."""
    bad = ["not valid JSON: x", {"answer": "1"}, GOOD, {}, {"question": "", "answer": "1"}]
    with pytest.raises(DataError) as error:
        convert(*bad, *bad)
    assert str(error.value).splitlines() == [
        "data.jsonl:1: not valid JSON: x",
        "data.jsonl:2: no column 'question'; columns are answer; "
        "prompt_key names the column to use",
        "data.jsonl:4: no column 'question'; the row has no columns; "
        "prompt_key names the column to use",
        "data.jsonl:5: column 'question' is an empty text",
        "data.jsonl:6: not valid JSON: x",
        "data.jsonl: and 3 more of 10 rows at fault",
    ]


NESTED = {"extra": {"q": "a", "x.y": 1}, "turns": [{"value": "b"}], "c.d": "e", "answer": "1"}


@pytest.mark.parametrize(("key", "text"), [("extra.q", "a"), ("turns.0.value", "b"), ("c.d", "e")])
def test_a_dot_leads_into_a_nested_column(key, text):
    """As verl's and OpenAI's data sets have them; a column with a dot in its name comes first."""
    (example,) = convert(NESTED, prompt_key=key)
    assert example.prompt == text


def test_nested_columns_are_named_by_their_paths():
    """In the message about one that there is not."""
    with pytest.raises(DataError, match=r"columns are extra\.q, .*did you mean extra\.q\?"):
        convert(NESTED, prompt_key="extra.qq")


def test_json_text_of_messages_is_a_conversation():
    """Data sets in CSV and SQL keep their conversations so; any other text stays a text."""
    text = '[{"role": "user", "content": "a"}]'
    (example,) = convert({"question": text, "answer": "1"})
    assert example.prompt == [{"role": "user", "content": "a"}]
    for plain in ("[1, 2]", "[", '[{"role": "user"}]', "[]"):
        (example,) = convert({"question": plain, "answer": "1"})
        assert example.prompt == plain


def test_a_row_may_bring_its_own_system_message():
    """By system_key; a row without one gets the system prompt of all."""
    rows = [{**GOOD, "s": value} for value in ("Be brief.", None, " ")]
    assert [example.system for example in convert(*rows, system_key="s")] == ["Be brief.", "", ""]
    with pytest.raises(DataError, match="column 's' is of type int, not a text"):
        convert({**GOOD, "s": 1}, system_key="s")
    with pytest.raises(DataError, match="system_key names the column to use"):
        convert(GOOD, system_key="s")


def notes_of(*rows, system_key=""):
    return row_notes(convert(*rows, system_key=system_key), Keys("question", "answer", system_key))


def test_rows_that_are_unlike_the_others_are_counted():
    """Of GSM8K's answers, one without its mark would be compared with all of its working."""
    marked, plain = {"question": "q", "answer": "so #### 1"}, GOOD
    assert notes_of(marked, marked) == []
    assert notes_of(plain, plain) == []
    [line] = notes_of(marked, plain, marked)
    assert line.startswith("1 of 3 answers have no ####, unlike the others")


def test_what_is_read_otherwise_or_not_at_all_is_told():
    """Messages in JSON, and a column for system messages that nothing reads."""
    [line] = notes_of({"question": '[{"role": "user", "content": "a"}]', "answer": "1"})
    assert line == "1 prompts are chat messages written as JSON, and are read as such"
    [line] = notes_of({**GOOD, "system": "Be brief."})
    assert line.startswith("the column 'system' goes to rewards only; system_key = 'system' makes")
    assert notes_of({**GOOD, "system": "Be brief."}, system_key="system") == []
