"""The estimate of peak memory against measured peaks, and what it is made of."""

import dataclasses

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from mlx_lm.models import qwen2

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model.adapters import add_adapters
from grpo_core.model.random_keys import sample_key
from grpo_core.model.trunk_head import SplitModel
from grpo_core.rollout.generate import generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.gradient import gradient
from grpo_core.update.memory_estimate import estimate, model_shape
from grpo_core.update.memory_plan import MemoryPlan, plan_memory
from grpo_core.update.micro_batches import Sample
from tests.toy import toy_policy
from tests.zoo import VOCAB, zoo_config, zoo_model, zoo_policy

# The toy of tests/toy.py as its config.json would say it.
TOY = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "vocab_size": 48,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "torch_dtype": "float32",
}
QWEN_HALF_B = {
    **TOY,
    "hidden_size": 896,
    "num_hidden_layers": 24,
    "intermediate_size": 4864,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "torch_dtype": "bfloat16",
}


def config(**fields):
    base = {"quantize_for_rollouts": False, "num_generations": 16, "max_new_tokens": 96}
    return MLXGRPOConfig(**{**base, **fields})


def test_weights_are_counted_as_they_are_loaded():
    """Against the policy itself: every array, adapters included."""
    cfg = config(lora_rank=4)
    policy = toy_policy("lora")
    arrays = [a for _, a in tree_flatten(policy.model.parameters())]
    shape = model_shape(TOY, cfg)
    assert shape.weights_bytes == sum(a.nbytes for a in arrays)
    assert shape.trainable_bytes == sum(a.nbytes for a in policy.trainable().values())


def test_size_of_a_real_model_is_known_without_its_weights():
    """Qwen2.5-0.5B has 494 M parameters, in 4 bits 0.28 GB; nothing is evaluated to know it."""
    before = mx.get_active_memory()
    full = model_shape(QWEN_HALF_B, config(train_type="full", dtype="bfloat16"))
    assert full.trainable_count == pytest.approx(494e6, rel=1e-3)
    assert full.weights_bytes == 2 * full.trainable_count
    quantised = model_shape(QWEN_HALF_B, config(quantize_for_rollouts=True, dtype="bfloat16"))
    assert quantised.weights_bytes - quantised.trainable_bytes == pytest.approx(0.278e9, rel=0.01)
    assert mx.get_active_memory() - before < 1e6


MEDIUM = TOY | {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "intermediate_size": 512,
    "vocab_size": 4096,
}


def medium_policy(cfg):
    """A random model of 1.3 M parameters."""
    known = {k: v for k, v in MEDIUM.items() if k != "torch_dtype"}
    model = qwen2.Model(qwen2.ModelArgs(**known))
    if cfg.train_type != "full":
        model.freeze()
        add_adapters(model, cfg)
    mx.eval(model.parameters())
    toy = toy_policy(cfg.train_type)
    return dataclasses.replace(toy, model=model, split=SplitModel(model), config=MEDIUM)


@pytest.mark.parametrize(
    "fields",
    [{}, {"micro_batch_size": 8}, {"train_type": "full"}, {"prefix_sharing": False}],
    ids=lambda f: next(iter(f), "default"),
)
def test_update_takes_what_was_estimated(fields):
    """Measured at group 8 x 64 on prompts of 116 tokens: within a quarter."""
    cfg = config(num_generations=8, max_new_tokens=64, **fields)
    policy = medium_policy(cfg)
    draw = np.random.default_rng(0)
    prompt = tuple(int(i) for i in draw.integers(8, 4096, 116))
    group = [
        Sample(prompt, [int(i) for i in draw.integers(8, 4096, 64)], float(draw.normal()))
        for _ in range(cfg.num_generations)
    ]
    plan = plan_memory(policy, cfg)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    gradient(policy, [group], cfg, plan)
    measured = mx.get_peak_memory() - before
    settled = dataclasses.replace(cfg, **plan.settings)
    parts = estimate(model_shape(MEDIUM, cfg), settled, len(prompt)).update
    assert sum(part.bytes for part in parts) == pytest.approx(measured, rel=0.25)


def test_each_saving_lowers_the_estimate():
    """Micro-batches, recomputation, shared prompts and shorter completions all take less."""
    shape = model_shape(QWEN_HALF_B, config())
    plain = config(prefix_sharing=False, logprob_chunk_tokens=64)
    default = config(logprob_chunk_tokens=64)
    peaks = [
        sum(part.bytes for part in estimate(shape, cfg, 400).update)
        for cfg in (
            plain,
            default,
            dataclasses.replace(default, micro_batch_size=8),
            dataclasses.replace(default, micro_batch_size=8, grad_checkpoint="on"),
            dataclasses.replace(default, micro_batch_size=2, grad_checkpoint="on"),
        )
    ]
    assert peaks == sorted(peaks, reverse=True)
    assert len(set(peaks)) == len(peaks)


def test_minibatches_of_one_rollout_are_drawn_together():
    """Sixteen updates from one batch of completions decode as many rows as one of sixteen steps."""
    shape = model_shape(QWEN_HALF_B, config())
    one = config(batch_size=1, gradient_accumulation_steps=16, num_generations=8)
    many = config(
        batch_size=1, gradient_accumulation_steps=1, steps_per_generation=16, num_generations=8
    )
    assert estimate(shape, many, 400).rollout == estimate(shape, one, 400).rollout


@pytest.mark.parametrize(
    ("early", "rows"),
    # Of 128 places: 100; twice 60; thrice 40 and twice 60; eight times 12, more than once 88.
    [(0, 100), (60, 120), (40, 120), (12, 96)],
)
def test_a_group_that_is_drawn_in_two_parts_is_estimated_by_the_larger_draw(early, rows):
    """Eight prompts of 100 completions: as many parts decode together as 128 rows have places."""
    cfg = config(num_generations=100, batch_size=8, early_group_size=early)
    cfg = dataclasses.replace(cfg, gradient_accumulation_steps=1)
    parts = estimate(model_shape(QWEN_HALF_B, cfg), cfg, 400).rollout
    assert parts[0].name == f"keys and values of {rows} completions"


@pytest.mark.parametrize("prompts", [16, pytest.param(40, marks=pytest.mark.slow)])
def test_a_rollout_takes_no_more_than_was_estimated(prompts):
    """Eight completions each, 128 rows at once: of 40 prompts most come in as rows end."""
    cfg = config(num_generations=8, max_new_tokens=32, batch_size=prompts)
    cfg = dataclasses.replace(cfg, gradient_accumulation_steps=1)
    policy = dataclasses.replace(medium_policy(cfg), eos_ids=frozenset(range(0, 4096, 40)))
    draw = np.random.default_rng(0)
    ids = [tuple(int(i) for i in draw.integers(8, 4096, 60 + p)) for p in range(prompts)]
    keys = [[sample_key(0, 1, p, s) for s in range(8)] for p in range(prompts)]
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    generate_groups(policy, ids, 8, keys, Sampling(1.0, 32))
    measured = mx.get_peak_memory() - before
    parts = estimate(model_shape(MEDIUM, cfg), cfg, 60 + prompts).rollout
    assert 0.5 < measured / sum(part.bytes for part in parts) <= 1
    assert (len(parts) > 3) == (prompts > 16)


def test_full_fine_tuning_counts_masters_and_reference():
    """bf16 weights want fp32 masters; with a KL term the first weights stay as well."""
    cfg = config(train_type="full", kl_coeff=0.1, dtype="bfloat16")
    shape = model_shape(QWEN_HALF_B, cfg)
    count = shape.trainable_count
    standing = {part.name: part.bytes for part in estimate(shape, cfg, 100).standing}
    assert sorted(standing.values()) == sorted([2 * count, 8 * count, 4 * count, 2 * count])


def test_unknown_model_is_said(tmp_path):
    """One message, exit 3."""
    with pytest.raises(ModelError, match="cannot be estimated"):
        model_shape({"model_type": "nonesuch"}, config())


# Families whose config.json spells its sizes otherwise, or has none of them.
SPELT_OTHERWISE = (
    *("gpt2", "gpt_bigcode", "mamba2", "rwkv7", "lfm2", "exaone", "qwen3_5_moe", "youtu_llm"),
    *("lille-130m", "longcat_flash", "openelm", "dbrx", "recurrent_gemma", "gemma4"),
)


@pytest.mark.parametrize("make", SPELT_OTHERWISE)
@pytest.mark.parametrize("fields", [{}, {"quantize_for_rollouts": True}, {"train_type": "full"}])
def test_sizes_come_from_the_model_and_not_from_a_name_in_its_config(make, fields):
    """The vocabulary, the blocks, and the weights to the last byte."""
    shape = model_shape(zoo_config(make, scale=2), config(**fields))
    model = zoo_model(make, scale=2)
    assert (shape.vocab, shape.layers) == (VOCAB, len(model.layers))
    if fields.get("train_type") == "full":
        sizes = [array.nbytes for _, array in tree_flatten(model.parameters())]
        assert shape.weights_bytes == sum(sizes)
    assert estimate(shape, config(**fields), 30).peak_bytes > shape.weights_bytes


@pytest.mark.parametrize(
    ("make", "kept", "always"),
    [
        # keys and values of 2 heads of 8 in each of 2 layers, fp32
        ("qwen3", 2 * 2 * 2 * 8 * 4, 0),
        # one layer of each kind; the other keeps what the last two tokens were, 32 wide
        ("lfm2", 2 * 2 * 8 * 4, 2 * 32 * 4),
        # the first layer's window bounds its half
        ("gpt_oss", 2 * 2 * 2 * 8 * 4, 0),
        # two layers' states of 4 heads of 8 x 8, and the last 3 tokens, 32 + 2 x 8 wide
        ("mamba2", 0, 2 * (4 * 8 * 8 + 3 * 48) * 4),
    ],
)
def test_what_decoding_keeps_is_read_off_the_model_s_own_caches(make, kept, always):
    """By hand from the configuration."""
    shape = model_shape(zoo_config(make), config())
    assert (shape.kept, shape.kept_always) == (kept, always)


def test_whether_a_prompt_is_shared_is_known_before_the_estimate(tmp_path):
    """A full prompt in every row takes more, so a plan must know."""
    for make, shares in (("qwen3", True), ("mamba2", True), ("llama4", False)):
        assert model_shape(zoo_config(make), config()).can_share_prefix == shares


# One for each kind of layer, at 3 to 8 M parameters.
MEASURED = ("gpt2", "mixtral", "gemma3_text", "gpt_oss", "falcon_h1", "qwen3_next", "rwkv7")


@pytest.mark.parametrize("make", MEASURED)
def test_an_update_of_each_kind_of_model_takes_what_was_estimated(make):
    """Group 8 x 64 on prompts of 64 tokens with adapters: 0.8 to 1.25 of the peak."""
    cfg = config(num_generations=8, max_new_tokens=64, lora_rank=8)
    policy = zoo_policy(make, scale=8, vocab=512)
    policy.model.freeze()
    add_adapters(policy.model, cfg)
    mx.eval(policy.model.parameters())
    draw = np.random.default_rng(0)
    prompt = tuple(int(i) for i in draw.integers(8, 512, 64))
    group = [
        Sample(prompt, [int(i) for i in draw.integers(8, 512, 64)], float(draw.normal()))
        for _ in range(8)
    ]
    plan = MemoryPlan(8, 512, False, policy.can_share_prefix)
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    gradient(policy, [group], cfg, plan)
    measured = mx.get_peak_memory() - before
    shape = model_shape(zoo_config(make, scale=8, vocab=512), cfg)
    parts = estimate(shape, dataclasses.replace(cfg, **plan.settings), len(prompt)).update
    assert 0.8 < sum(part.bytes for part in parts) / measured < 1.25
