"""The embedded model and its task: what the demo and most other tests stand on."""

import json
import re
import unicodedata

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from mlx_lm.models.cache import make_prompt_cache
from transformers import AutoTokenizer

from grpo_core.data.arithmetic import arithmetic_rows
from grpo_core.model import tiny, tiny_build
from grpo_core.model.tiny_build import chat_prompt

TAGS = ["<reasoning>", "</reasoning>", "<answer>", "</answer>"]
BEST_LAYOUT = re.compile(
    r"<reasoning>\n\d\d[+-]\d\d=(\d+)\n</reasoning>\n<answer>\n\1\n</answer>", re.ASCII
)
MAX_NEW_TOKENS = 28


@pytest.fixture(scope="module")
def loaded():
    """The shipped model and its tokenizer, as mlx-lm loads them."""
    return mlx_lm.load(str(tiny.model_path()))


@pytest.fixture(scope="module")
def tokenizer():
    """The shipped tokenizer, as transformers loads it without remote code."""
    return AutoTokenizer.from_pretrained(tiny.model_path())


# -- the tokenizer


@given(st.text())
def test_any_text_survives_the_tokenizer(tokenizer, text):
    """Users point the tiny model at real data sets; like Qwen2's, its tokenizer composes (NFC)."""
    composed = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == composed


def test_tags_and_digits_are_single_tokens(tokenizer):
    """A tag is one token that decoding keeps, and no two digits share a token."""
    for tag in TAGS:
        ids = tokenizer.encode(tag, add_special_tokens=False)
        assert len(ids) == 1
        assert tokenizer.decode(ids, skip_special_tokens=True) == tag
    assert len(tokenizer.encode("0123456789", add_special_tokens=False)) == 10


def test_chat_template_writes_chatml(tokenizer):
    """With and without a system message; what the model was taught on is the latter."""
    user = {"role": "user", "content": "What is 1 + 1?"}
    ask = {"tokenize": False, "add_generation_prompt": True}
    asked = "<|im_start|>user\nWhat is 1 + 1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.apply_chat_template([user], **ask) == asked
    assert chat_prompt("What is 1 + 1?") == asked
    system = {"role": "system", "content": "Count."}
    with_system = tokenizer.apply_chat_template([system, user], **ask)
    assert with_system == "<|im_start|>system\nCount.<|im_end|>\n" + asked
    assert tokenizer.apply_chat_template([user], tokenize=False) == asked.removesuffix(
        "<|im_start|>assistant\n"
    )


def test_the_end_of_a_turn_is_the_end_of_the_text(loaded, tokenizer):
    """mlx-lm and transformers stop at the same token."""
    assert tokenizer.eos_token == "<|im_end|>"
    assert loaded[1].eos_token_ids == {tokenizer.eos_token_id}


# -- the model


def test_model_is_small_and_long_enough(loaded):
    """0.1 M fp32 parameters in under 1 MB, with room for a GSM8K prompt."""
    weights = [array for _, array in tree_flatten(loaded[0].parameters())]
    assert 80_000 < sum(array.size for array in weights) < 200_000
    assert {array.dtype for array in weights} == {mx.float32}
    assert sum(path.stat().st_size for path in tiny.model_path().iterdir()) < 1_000_000
    config = json.loads((tiny.model_path() / "config.json").read_text())
    assert config["model_type"] == "qwen2"
    assert config["max_position_embeddings"] >= 2048


def test_quantised_model_still_answers():
    """Each layer takes 4 bits in groups of 64, and what is left still does most easy problems."""
    model, tokenizer = mlx_lm.load(str(tiny.model_path()))
    nn.quantize(model, group_size=64, bits=4)
    kinds = {type(module) for module in model.leaf_modules().values() if hasattr(module, "weight")}
    assert nn.Linear not in kinds
    rows = [row for row in arithmetic_rows("test")[:100] if not is_hard(row)]
    answers = greedy_answers(model, tokenizer, rows)
    assert mean(map(is_right, rows, answers)) > 0.7


def test_greedy_exact_match_leaves_room_to_learn(loaded):
    """Between 20% and 60% before training: GRPO has signal, and somewhere to go."""
    rows = arithmetic_rows("test")[:200]
    answers = greedy_answers(*loaded, rows)
    assert 0.2 < mean(map(is_right, rows, answers)) < 0.6
    assert mean(bool(BEST_LAYOUT.fullmatch(answer)) for answer in answers) > 0.9


def test_what_greedy_gets_wrong_a_group_of_eight_often_gets_right(loaded):
    """Groups are mixed, so advantages are not zero; and the layouts vary as well."""
    rows = [row for row in arithmetic_rows("test")[:60] if is_hard(row)]
    groups = sampled_answers(*loaded, rows, group_size=8)
    right = [
        [is_right(row, answer) for answer in group] for row, group in zip(rows, groups, strict=True)
    ]
    assert mean(any(group) and not all(group) for group in right) > 0.8
    assert 0.2 < mean(mean(group) for group in right) < 0.6
    laid_out = [bool(BEST_LAYOUT.fullmatch(answer)) for group in groups for answer in group]
    assert 0.5 < mean(laid_out) < 0.95


def is_hard(row):
    """Whether the ones of the two terms carry or borrow."""
    a, op, b = re.match(r"(\d+) ([+-]) (\d+)", row["answer"]).groups()
    return int(a[1]) + int(b[1]) > 9 if op == "+" else int(a[1]) < int(b[1])


def is_right(row, answer):
    """Exact match by the last answer tags."""
    found = re.findall(r"<answer>\s*(\d+)\s*</answer>", answer)
    return bool(found) and found[-1] == row["answer"].split("#### ")[1]


def mean(values):
    """The mean of some numbers or truths."""
    values = list(values)
    return sum(values) / len(values)


def greedy_answers(model, tokenizer, rows):
    """The likeliest completion of each row."""
    groups = completions(model, tokenizer, rows, 1, lambda logits: mx.argmax(logits, axis=-1))
    return [group[0] for group in groups]


def sampled_answers(model, tokenizer, rows, group_size):
    """Completions of each row at temperature 1, the same ones in every test run."""
    mx.random.seed(0)
    return completions(model, tokenizer, rows, group_size, mx.random.categorical)


def completions(model, tokenizer, rows, group_size, choose):
    """Texts [rows][group_size]; prompts of equal length are decoded together, without padding."""
    prompts = [tokenizer.encode(chat_prompt(row["question"])) for row in rows]
    texts = [None] * len(rows)
    for length in {len(prompt) for prompt in prompts}:
        where = [i for i, prompt in enumerate(prompts) if len(prompt) == length]
        batch = mx.array([prompts[i] for i in where for _ in range(group_size)])
        decoded = [decode(tokenizer, ids) for ids in generate(model, batch, choose)]
        for n, i in enumerate(where):
            texts[i] = decoded[n * group_size : (n + 1) * group_size]
    return texts


def generate(model, tokens, choose):
    """Ids [B][MAX_NEW_TOKENS] after the prompts `tokens` [B, T]."""
    cache = make_prompt_cache(model)
    ids = []
    for _ in range(MAX_NEW_TOKENS):
        tokens = choose(model(tokens, cache=cache)[:, -1])[:, None]
        mx.eval(tokens)
        ids.append(tokens)
    return mx.concatenate(ids, axis=1).tolist()


def decode(tokenizer, ids):
    """The text up to the end of the turn."""
    end = tokenizer.eos_token_id
    return tokenizer.decode(ids[: ids.index(end)] if end in ids else ids)


# -- the build


def test_build_is_reproducible_by_seed(tmp_path, monkeypatch):
    """The same seed gives the same bytes, another seed other weights; mlx-lm loads the result."""
    monkeypatch.setattr(tiny_build, "BUILD_BATCH", 8)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tiny_build.build(tmp_path / name, seed=seed, steps=2)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in "abc")
    assert a == b
    assert {name for name in a if a[name] != c[name]} == {"model.safetensors"}
    mlx_lm.load(str(tmp_path / "a"))


def test_shipped_folder_is_what_the_script_makes(tmp_path, monkeypatch):
    """Words, tokenizer and shape changed in the script need a new shipped model."""
    monkeypatch.setattr(tiny_build, "BUILD_BATCH", 8)
    tiny_build.build(tmp_path / "new", steps=1)
    for path in tiny.model_path().iterdir():
        made = tmp_path / "new" / path.name
        if path.suffix == ".json":
            assert made.read_bytes() == path.read_bytes()
        else:
            assert made.stat().st_size == path.stat().st_size


def test_build_refuses_a_folder_that_is_there(tmp_path, capsys):
    """One message, exit code 2, and what was there stays."""
    (tmp_path / "notes.txt").write_text("mine")
    assert tiny_build.main(["build", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}: is there already; name a folder that is not\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [(["--steps", "0"], "0: must be at least 1"), (["--seed", "-1"], "-1: must be at least 0")],
)
def test_build_refuses_numbers_out_of_range(tmp_path, capsys, arguments, fault):
    """Named by value, before any work."""
    with pytest.raises(SystemExit) as stopped:
        tiny_build.main(["build", str(tmp_path / "new"), *arguments])
    assert stopped.value.code == 2
    assert fault in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_build_says_where_it_cannot_write(tmp_path, capsys):
    """A parent that is a file is a message, not a traceback."""
    (tmp_path / "file").write_text("")
    assert tiny_build.main(["build", str(tmp_path / "file" / "new"), "--steps", "1"]) == 2
    assert "cannot be written" in capsys.readouterr().err
