"""Which rows train and which are held out, and what a run's data looks like."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.examples import Example
from grpo_core.data.splits import _divide, _hold_out, _in_fixed_order, load_data
from grpo_core.errors import DataError
from tests.byte_tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()


def config(dataset, **fields):
    plain = {"system_prompt": "", "assistant_prefix": "<r>"}
    return MLXGRPOConfig(dataset=str(dataset), **(plain | fields))


def write_rows(path, questions, answer="#### 1"):
    rows = [json.dumps({"question": q, "answer": answer}) for q in questions]
    path.write_text("\n".join(rows) + "\n")
    return path


@pytest.fixture
def rows(tmp_path):
    """A file of 600 rows, `q0` to `q599`."""
    return write_rows(tmp_path / "rows.jsonl", [f"q{n}" for n in range(600)])


def confirm_rows(cfg):
    """Every row that is kept for `confirm`."""
    every_one = replace(cfg, eval_part="confirm", eval_samples=10**6)
    return load_data(every_one, TOKENIZER).test


def questions(prompts):
    return [prompt.example.prompt for prompt in prompts]


# -- a run's data -------------------------------------------------------------------------------


def test_a_prompt_is_the_template_around_the_row_and_the_prefix(tmp_path):
    """Text and ids, the reference answer without its working, and the row's place."""
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"question": "1 + 1?", "answer": "sum #### 2", "level": 3}\n')
    (prompt,) = load_data(config(path, system_prompt="Think."), TOKENIZER).train
    assert prompt.text == "[system]Think.\n[user]1 + 1?\n[assistant]<r>"
    assert TOKENIZER.decode(list(prompt.ids)) == prompt.text
    assert len(prompt.ids) == len(prompt.text)  # one token a byte
    assert prompt.example == Example(
        index=0,
        prompt="1 + 1?",
        answer="2",
        row={"question": "1 + 1?", "answer": "sum #### 2", "level": 3},
        line=f"{path}:2",
    )


def test_training_rows_stand_in_the_order_of_the_file(rows):
    """The loop draws its own order from the seed."""
    data = load_data(config(rows), TOKENIZER)
    indices = [prompt.example.index for prompt in data.train]
    assert indices == sorted(indices)


def test_prompts_that_are_too_long_are_dropped_and_counted(tmp_path):
    """`[user]X\\n[assistant]<r>` has 21 bytes and the question; 23 leave two for that."""
    path = write_rows(tmp_path / "a.jsonl", ["1", "22", "333", "4444"])
    test = write_rows(tmp_path / "test.jsonl", ["5", "666"])
    data = load_data(config(path, eval_dataset=str(test), max_prompt_length=23), TOKENIZER)
    assert questions(data.train) == ["1", "22"]
    assert sorted(questions(data.train_eval)) == ["1", "22"]
    assert questions(data.test) == ["5"]
    assert data.dropped == 2
    assert data.notes == (
        "2 of 4 training prompts dropped: longer than max_prompt_length = 23 tokens",
        "1 of 2 held-out prompts dropped: longer than max_prompt_length = 23 tokens",
        "eval_samples = 200: there are 2 held-out rows",
    )


def test_no_prompt_left_is_an_error_that_says_how_short_it_would_go(tmp_path):
    """What to raise, and to what."""
    path = write_rows(tmp_path / "a.jsonl", ["22", "1"])
    message = rf"none of 2 prompts fits max_prompt_length = 9; .*{path}:2, has 22 tokens"
    with pytest.raises(DataError, match=message):
        load_data(config(path, max_prompt_length=9), TOKENIZER)


def test_the_rows_are_the_same_for_every_seed(rows):
    """Sweeps over seeds compare the same rows."""
    fields = {"max_train_samples": 50, "eval_samples": 20, "eval_subset_size": 10}
    first = load_data(config(rows, seed=0, **fields), TOKENIZER)
    assert load_data(config(rows, seed=1, **fields), TOKENIZER) == first
    assert (len(first.train), len(first.test), len(first.train_eval)) == (50, 20, 10)


def test_fewer_rows_are_always_among_more(rows):
    """Whatever eval_samples and max_train_samples are, runs share what rows they can."""
    few = load_data(
        config(rows, max_train_samples=9, eval_samples=5, eval_subset_size=3), TOKENIZER
    )
    many = load_data(config(rows, max_train_samples=90, eval_samples=50), TOKENIZER)
    assert set(questions(few.train)) < set(questions(many.train))
    assert questions(many.test)[:5] == questions(few.test)
    assert questions(many.train_eval)[:3] == questions(few.train_eval)
    assert set(questions(few.train_eval)) < set(questions(few.train))


def test_a_training_subset_is_drawn_from_the_whole_file(rows):
    """Not its first rows: files are often sorted."""
    data = load_data(config(rows, max_train_samples=50), TOKENIZER)
    indices = [prompt.example.index for prompt in data.train]
    assert min(indices) < 150
    assert max(indices) > 450


def test_the_fingerprint_follows_the_content_alone(tmp_path, rows):
    """Another name or spacing is the same data; another column value is not."""
    same = tmp_path / "same.jsonl"
    same.write_text("\n\n" + rows.read_text().replace('"answer": ', '"answer":  '))
    other = tmp_path / "other.jsonl"
    other.write_text(rows.read_text().replace("#### 1", "#### 2", 1))
    prints = [load_data(config(path), TOKENIZER).fingerprint for path in (rows, same, other)]
    assert prints[0] == prints[1] != prints[2]
    assert len(prints[0]) == 64


def test_the_built_in_task_has_both_splits():
    """400 held-out rows, a quarter of them for confirm; answers reduced to the number."""
    cfg = config("builtin/arithmetic", eval_samples=400, eval_subset_size=5)
    data = load_data(cfg, TOKENIZER)
    assert (len(data.train), len(data.test), len(data.train_eval)) == (2000, 300, 5)
    assert len(confirm_rows(cfg)) == 100
    assert all(prompt.example.answer.isdigit() for prompt in data.train + data.test)
    assert data.train[0].example.line == "builtin/arithmetic[train][0]"
    assert data.notes == ("eval_samples = 400: there are 300 held-out rows",)


def test_a_jsonl_file_costs_no_import_of_datasets(rows):
    """Start-up time counts in a sweep: `import datasets` takes two seconds."""
    program = (
        "import sys\n"
        "from tests.unit.grpo_core.data.test_splits import TOKENIZER, config, load_data\n"
        f"assert load_data(config({str(rows)!r}), TOKENIZER).train\n"
        "print(*{'datasets', 'pyarrow', 'pandas'} & set(sys.modules))\n"
    )
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])}
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, check=True, env=env, stdout=subprocess.PIPE, text=True)
    assert done.stdout.split() == []


# -- what is held out ---------------------------------------------------------------------------


def test_without_a_test_split_a_tenth_is_held_out(rows):
    """600 rows: 60 held out, a third of them (20) for confirm."""
    cfg = config(rows, eval_samples=40)
    data = load_data(cfg, TOKENIZER)
    confirm = confirm_rows(cfg)
    assert (len(data.train), len(data.test), len(confirm)) == (540, 40, 20)
    parts = questions(data.train) + questions(data.test) + questions(confirm)
    fresh = load_data(config(rows, eval_samples=40, eval_part="confirm"), TOKENIZER)
    assert questions(fresh.test) == questions(confirm)
    assert questions(fresh.train) == questions(data.train)
    assert len(set(parts)) == 600
    assert data.notes == ("no test split: 60 of 600 rows are held out",)


@pytest.mark.parametrize(
    ("n", "eval_samples", "n_test", "n_confirm"),
    [
        (600, 100, 100, 20),  # more than a tenth where the evaluation asks for it
        (600, 500, 180, 20),  # up to a third
        (600, 0, 40, 20),  # as many when evaluation is off: other runs may have it on
        (300, 10, 30, 0),  # a thirtieth would be 10 rows, too few to confirm anything
        (5, 200, 1, 0),
        (2, 200, 0, 0),
    ],
)
def test_how_many_rows_are_held_out(n, eval_samples, n_test, n_confirm):
    """Each line by hand from the rule in data.py."""
    splits = _hold_out(examples(range(n)), eval_samples)
    assert (len(splits.test), len(splits.confirm)) == (n_test, n_confirm)
    assert len(splits.train) == n - n_test - n_confirm


@pytest.mark.parametrize(
    ("n", "n_confirm"),
    [(1319, 329), (48, 12), (47, 0), (1, 0)],
)
def test_a_quarter_of_a_test_split_is_kept_for_confirm(n, n_confirm):
    """Of a small one nothing: the evaluation needs it all."""
    splits = _divide(examples(range(1000, 1010)), examples(range(n)))
    assert (len(splits.test), len(splits.confirm)) == (n - n_confirm, n_confirm)


def examples(numbers):
    rows = [
        Example(i, f"q{n}", "1", {"question": f"q{n}"}, f"a:{i}") for i, n in enumerate(numbers)
    ]
    return _in_fixed_order(rows)


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), max_size=900), st.integers(0, 300), st.integers(0, 300))
def test_no_prompt_stands_in_two_parts(numbers, eval_samples, other):
    """Doubled rows included; nothing is lost; confirm rows stay out whatever eval_samples is."""
    splits, again = _hold_out(examples(numbers), eval_samples), _hold_out(examples(numbers), other)
    parts = [{row.prompt for row in part} for part in (splits.train, splits.test, splits.confirm)]
    assert sum(map(len, parts)) == len(set(numbers))
    rows = splits.train + splits.test + splits.confirm
    assert sorted(row.index for row in rows) == list(range(len(numbers)))
    assert 3 * (len(splits.test) + len(splits.confirm)) <= len(numbers)
    assert again.confirm == splits.confirm


@settings(deadline=None)
@given(st.lists(st.integers(), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_the_order_of_a_file_does_not_decide_what_is_held_out(numbers, shuffler):
    """A digest of the prompt does."""
    shuffled = list(numbers)
    shuffler.shuffle(shuffled)
    one, other = _hold_out(examples(numbers), 10), _hold_out(examples(shuffled), 10)
    assert [row.prompt for row in one.test] == [row.prompt for row in other.test]


def test_an_evaluation_file_is_held_out_instead(tmp_path, rows):
    """Every row of the training file trains; test and confirm are parts of the other."""
    test = write_rows(tmp_path / "test.jsonl", [f"t{n}" for n in range(100)])
    cfg = config(rows, eval_dataset=str(test))
    data = load_data(cfg, TOKENIZER)
    confirm = confirm_rows(cfg)
    assert (len(data.train), len(data.test), len(confirm)) == (600, 75, 25)
    assert set(questions(data.test) + questions(confirm)) == {f"t{n}" for n in range(100)}


def test_held_out_prompts_that_also_train_are_counted(tmp_path, rows):
    """A test set with training rows in it flatters; the user should know."""
    test = write_rows(tmp_path / "test.jsonl", ["q1", "q2", "new"])
    data = load_data(config(rows, eval_dataset=str(test), eval_samples=3), TOKENIZER)
    assert data.notes == ("2 of 3 held-out prompts stand among the training rows too",)


def test_confirm_without_rows_is_an_error(tmp_path):
    """With the way out."""
    path = write_rows(tmp_path / "a.jsonl", ["a", "b", "c"])
    with pytest.raises(DataError, match=r"too few rows for the part 'confirm'; .*eval_dataset"):
        confirm_rows(config(path))
