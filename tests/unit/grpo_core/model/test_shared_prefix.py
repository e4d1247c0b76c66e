"""Sharing a prompt: the same numbers as a plain forward pass, on models of several makes."""

import math
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model import shared_prefix
from grpo_core.model.random_keys import sample_key
from grpo_core.model.shared_prefix import PrefixCache, _together, abilities
from grpo_core.rollout.generate import LOOK_EVERY, generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.gradient import gradient, score
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Sample
from tests.zoo import FEW, MIXING, SHARING, VOCAB, zoo_policy

PROMPTS = [tuple(range(8, 17)), tuple(range(20, 34)), (30, 9, 41), tuple(range(38, 29, -1))]
TEMPERATURE = 0.9
LIMIT = 12


def plain_logprobs(policy, prompt, ids):
    """Of a completion's tokens, from one pass of mlx-lm's model over prompt and completion."""
    logits = policy.model(mx.array([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
    logits = np.array(logits, np.float64) / TEMPERATURE
    logits -= logits.max(axis=-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logps[np.arange(len(ids)), ids]


def rollouts(policy, prompts=PROMPTS, n=3, most_rows=128):
    keys = [[sample_key(0, 0, PROMPTS.index(p), s) for s in range(n)] for p in prompts]
    return generate_groups(
        policy, prompts, n, keys, Sampling(TEMPERATURE, LIMIT), most_rows=most_rows
    )


@pytest.mark.parametrize("make", FEW)
def test_what_a_model_can_do_is_found_by_trying(make):
    """Chunked attention cannot share; gemma2's masks cannot mix lengths."""
    policy = zoo_policy(make)
    assert policy.can_share_prefix == (make in SHARING)
    assert policy.can_mix_lengths == (make in MIXING)


def test_how_far_sharing_is_from_plain_is_known(monkeypatch):
    """A key that is off by a little moves log-probs by a little, and beyond the tolerance ends it.

    Infinite where a model cannot do it at all.
    """
    split = zoo_policy("qwen3").split
    fine = abilities(split, VOCAB)
    assert 0 <= fine.shared < 1e-4 and 0 <= fine.mixed < 1e-4
    assert fine.share_prefix and fine.mix_lengths
    plain = shared_prefix._in_front
    monkeypatch.setattr(shared_prefix, "_in_front", lambda prefix, rows: plain(prefix * 1.5, rows))
    off = abilities(split, VOCAB)
    assert 1e-2 < off.shared < math.inf
    assert not off.share_prefix and not off.mix_lengths
    monkeypatch.undo()
    assert abilities(zoo_policy("llama4").split, VOCAB).shared == math.inf


@pytest.mark.parametrize("make", FEW)
def test_rollouts_are_those_of_the_plain_model(make):
    """Log-probs of every drawn token, and the same tokens with other prompts in the batch.

    Of seven places six are taken at first; the other prompts come in as rows end.
    """
    # So many end tokens that some rows end before others.
    policy = replace(zoo_policy(make), eos_ids=frozenset(range(0, VOCAB, 8)))
    groups = rollouts(policy, most_rows=7)
    shortest = min(len(ids) for group in groups for ids in group.completions)
    assert shortest < LOOK_EVERY
    for prompt, group in zip(PROMPTS, groups, strict=True):
        (alone,) = rollouts(policy, [prompt])
        assert alone.completions == group.completions
        for ids, logprobs in zip(group.completions, group.logprobs, strict=True):
            expected = plain_logprobs(policy, prompt, ids)
            # Single tokens of gemma4_text and qwen3_next are so ill-conditioned that rounding
            # the weights in their last bit moves one by 3.4e-5, and the CPU's other operations
            # one by 5.5e-5; a wrong mask or position is off by whole nats.
            np.testing.assert_allclose(logprobs, expected, atol=1e-4)


@pytest.mark.parametrize("make", FEW)
def test_gradient_and_scores_do_not_depend_on_the_way_there(make):
    """Plain batch, shared prompt, in parts, in chunks, recomputed: one gradient, one score."""
    policy = zoo_policy(make)
    cfg = MLXGRPOConfig(train_type="full", temperature=TEMPERATURE, max_new_tokens=LIMIT)
    draw = np.random.default_rng(0)
    groups = [
        [
            Sample(prompt, draw.integers(8, VOCAB, length).tolist(), advantage)
            for length, advantage in ((5, 1.0), (1, -1.5), (8, 0.3))
        ]
        for prompt in PROMPTS[:2]
    ]
    can = policy.can_share_prefix
    plans = [
        MemoryPlan(3, 1000, False, False),
        MemoryPlan(3, 1000, False, can),
        MemoryPlan(2, 7, False, can),
        MemoryPlan(1, 3, True, can),
        MemoryPlan(3, 1000, True, False),
    ]
    first, *others = [gradient(policy, groups, cfg, plan) for plan in plans]
    largest = max(np.abs(np.array(g)).max() for g in first.grads.values())
    for other in others:
        assert other.stats == pytest.approx(first.stats, rel=1e-5, abs=1e-6)
        for name, grad in first.grads.items():
            # fp32 sums in whichever order a BLAS takes, through the inverses of gated delta.
            np.testing.assert_allclose(other.grads[name], grad, atol=1e-5 * largest, err_msg=name)
    for plan in plans:
        for group, found in zip(groups, score(policy, groups, cfg, plan), strict=True):
            for sample, scores in zip(group, found, strict=True):
                expected = plain_logprobs(policy, sample.prompt_ids, sample.completion_ids)
                np.testing.assert_allclose(scores.logprobs, expected, atol=2e-5)


@pytest.mark.parametrize("make", FEW)
def test_head_and_trunk_are_the_model(make):
    """Cut in two and put together: bit for bit what the model gives."""
    policy = zoo_policy(make)
    ids = mx.array([PROMPTS[0], PROMPTS[0][::-1]])
    policy.split.check(ids)
    assert policy.split.is_split
    together = policy.split.head(policy.split.trunk(ids))
    assert mx.array_equal(together, policy.model(ids)).item()


def test_a_model_that_cannot_be_cut_is_all_trunk():
    """Whatever its head does then counts as trunk, and the head does nothing."""
    policy = zoo_policy("qwen3")
    ids = mx.array([PROMPTS[0]])
    whole = policy.model(ids)
    kind = type(policy.model)
    doubled = type(
        "Doubled", (kind,), {"__call__": lambda self, *a, **k: 2 * kind.__call__(self, *a, **k)}
    )
    policy.model.__class__ = doubled
    assert policy.split.check(ids) == ""
    assert policy.split.is_split  # a factor on the logits is the head's
    shifted = type(
        "Shifted", (kind,), {"__call__": lambda self, x, **k: kind.__call__(self, x, **k) + x.sum()}
    )
    policy.model.__class__ = shifted
    fault = policy.split.check(ids)
    # The head adds the sum of what it gets, which are hidden states and no ids.
    assert fault.startswith("put together they are not the model: logits are up to ")
    assert not policy.split.is_split
    assert policy.split.check(ids) == "its parts have names of their own"
    assert mx.array_equal(policy.split.head(policy.split.trunk(ids)), whole + ids.sum()).item()
    assert policy.split.head_names == ()


def test_a_query_sees_its_window_and_no_more():
    """Two queries behind a prompt of 4 tokens, three tokens wide: places 2 to 4, and 3 to 5."""
    kv = (mx.zeros((1, 1, 4, 8)), mx.zeros((1, 1, 4, 8)))
    expected = [[0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1]]
    for cache, asked in ((PrefixCache(kv, 3), None), (PrefixCache(kv), 3)):
        assert np.array(cache.make_mask(2, window_size=asked)).astype(int).tolist() == expected
    assert PrefixCache(kv, 6).make_mask(2) == "causal"


def test_prompts_of_one_length_run_together_where_there_are_states():
    """Padding would be part of a recurrent state; without states neighbours share a pass."""
    assert _together([3, 3, 5, 5, 5], True, 100) == [slice(0, 2), slice(2, 5)]
    assert _together([3, 3, 5, 5, 5], False, 100) == [slice(0, 5)]
    assert _together([3, 3, 3, 5, 5], False, 10) == [slice(0, 3), slice(3, 5)]
