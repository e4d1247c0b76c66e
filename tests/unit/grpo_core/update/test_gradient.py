"""One update's gradient: what it leaves alone, what it runs, and what it takes."""

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.errors import Interrupted
from grpo_core.model.adapters import KeyedDropout, adapter_modules
from grpo_core.update import group_passes
from grpo_core.update.gradient import gradient, score
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Sample, cut
from tests.toy import EOS, config, toy_policy

WHOLE = MemoryPlan(8, 1000, False, True)
PARTS = replace(WHOLE, micro_batch_size=2)
PROMPT = (9, 3, 30, 14)


def group(count=4, length=6, prompt=PROMPT, seed=0):
    draw = np.random.default_rng(seed)
    return [
        Sample(prompt, [*draw.integers(8, 48, length - 1 - i % 3).tolist(), EOS], draw.normal())
        for i in range(count)
    ]


def same_grads(one, other):
    return all(mx.array_equal(grad, other.grads[name]).item() for name, grad in one.grads.items())


def holds(policy):
    return {name: id(value) for name, value in policy.trainable().items()}


@pytest.mark.parametrize("plan", [WHOLE, PARTS, replace(PARTS, grad_checkpoint=True)])
@pytest.mark.parametrize("train_type", ["full", "lora"])
def test_the_policy_is_left_as_it_was(train_type, plan):
    """The very same arrays, out of training mode; also after giving up half-way."""
    policy = toy_policy(train_type)
    before = holds(policy)
    first = gradient(policy, [group()], config(), plan)
    assert holds(policy) == before
    asked = []

    def should_stop():
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(Interrupted):
        gradient(
            policy, [group(), group(seed=1), group(seed=2)], config(), plan, should_stop=should_stop
        )
    assert holds(policy) == before
    assert not policy.model.training
    assert same_grads(gradient(policy, [group()], config(), plan), first)


@pytest.mark.parametrize(
    ("plan", "prompts_run"), [(WHOLE, 1), (PARTS, 2), (replace(PARTS, prefix_sharing=False), 0)]
)
def test_a_prompt_runs_once_for_its_group_and_once_more_if_the_group_is_cut(plan, prompts_run):
    """However many parts there are: its backward pass waits for all of them."""
    policy = toy_policy()
    shapes = []
    trunk = policy.split.trunk

    def counting(ids, cache=None):
        shapes.append(ids.shape)
        return trunk(ids, cache)

    policy.split.trunk = counting
    _ = policy.split.head_names
    shapes.clear()
    gradient(policy, [group(count=8)], config(), plan)
    assert shapes.count((1, len(PROMPT))) == prompts_run
    assert sum(rows for rows, _ in shapes) == 8 + prompts_run


def test_statistics_do_not_depend_on_the_cut():
    """Means over the update, not means of means: two groups of unequal length."""
    policy = toy_policy()
    groups = [group(3, 8), group(2, 3, (5, 6), seed=1)]
    cfg = config(kl_coeff=0.1)
    groups = [
        [replace(s, ref_logprobs=np.full(len(s.completion_ids), -3, np.float32)) for s in one]
        for one in groups
    ]
    first, *others = [
        gradient(policy, groups, cfg, replace(WHOLE, micro_batch_size=size)).stats
        for size in (8, 3, 2, 1)
    ]
    assert set(first) == {"loss", "policy_reward", "entropy", "ratio", "kl"} | {
        *("clip_frac", "clip_frac_low", "clip_frac_high")
    }
    for other in others:
        assert other == pytest.approx(first, rel=1e-5)


def test_no_groups_no_gradient():
    """Zeros of the right shapes, so that a caller need not ask."""
    policy = toy_policy("lora")
    found = gradient(policy, [], config(), WHOLE)
    assert {n: g.shape for n, g in found.grads.items()} == {
        n: w.shape for n, w in policy.trainable().items()
    }
    assert not any(grad.any().item() for grad in found.grads.values())


def test_gradients_are_fp32_whatever_the_weights_are():
    """A model in 16 bits: near the gradient of the same weights in 32."""
    policy = toy_policy()
    policy.model.set_dtype(mx.bfloat16)
    half = gradient(policy, [group()], config(), PARTS)
    policy.model.set_dtype(mx.float32)
    exact = gradient(policy, [group()], config(), PARTS)
    for name, grad in half.grads.items():
        assert grad.dtype == mx.float32
        error = np.linalg.norm(np.array(grad) - np.array(exact.grads[name]))
        assert error < 0.1 * np.linalg.norm(np.array(exact.grads[name])), name


@pytest.mark.parametrize("plan", [WHOLE, replace(PARTS, logprob_chunk_tokens=5)])
def test_compiled_parts_give_the_same_gradient_in_few_shapes(plan, monkeypatch):
    """As on a GPU: lengths are padded to multiples, and the padding changes nothing."""
    policy, cfg = toy_policy("lora"), config(entropy_coef=0.1, kl_coeff=0.0)
    plain = gradient(policy, [group()], cfg, plan)
    monkeypatch.setattr(group_passes, "compiles", lambda cfg: True)
    found = gradient(policy, [group()], cfg, plan)
    assert found.stats == pytest.approx(plain.stats, rel=1e-5)
    for name, grad in plain.grads.items():
        # Padding changes the order of a BLAS's sums; a padded token that counts shows as 1e-2.
        np.testing.assert_allclose(found.grads[name], grad, atol=4e-6, err_msg=name)
    assert {rows.length for rows in cut(group(), 2, group_passes.COMPILED_MULTIPLE)} == {32}


def test_small_micro_batches_take_less_memory():
    """Sixteen completions of 60 tokens one by one: less than a quarter of all at once."""
    policy = toy_policy("lora")
    samples = [group(16, 60)]
    _ = policy.split.head_names

    def peak(plan):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        gradient(policy, samples, config(), plan)
        return mx.get_peak_memory() - before

    assert peak(replace(WHOLE, micro_batch_size=1)) < peak(replace(WHOLE, micro_batch_size=16)) / 4


def with_dropout(share=0.3):
    policy = toy_policy("lora")
    for name, module in adapter_modules(policy.model):
        module.dropout = KeyedDropout(share, name)
    return policy


@pytest.mark.parametrize("plan", [WHOLE, PARTS, replace(PARTS, grad_checkpoint=True)])
def test_dropout_is_drawn_by_its_key(plan):
    """The same update gives the same gradient, another one another, and scores know none of it."""
    policy = with_dropout()
    mx.random.seed(1)
    first = gradient(policy, [group()], config(), plan, dropout_key=(0, 1))
    mx.random.seed(2)
    assert same_grads(gradient(policy, [group()], config(), plan, dropout_key=(0, 1)), first)
    assert not same_grads(gradient(policy, [group()], config(), plan, dropout_key=(0, 2)), first)
    scored = score(policy, [group()], config(), plan)[0][0].logprobs
    np.testing.assert_allclose(
        scored, score(toy_policy("lora"), [group()], config(), plan)[0][0].logprobs, atol=1e-6
    )


def test_recomputed_layers_drop_what_they_dropped_before():
    """With a fresh mask in the second pass the gradient would be of another function."""
    policy = with_dropout()
    kept = gradient(policy, [group()], config(), WHOLE, dropout_key=(0, 1))
    again = replace(WHOLE, grad_checkpoint=True)
    found = gradient(policy, [group()], config(), again, dropout_key=(0, 1))
    for name, grad in kept.grads.items():
        np.testing.assert_allclose(found.grads[name], grad, atol=1e-6, err_msg=name)


def test_scores_come_in_the_order_of_the_samples():
    """Rows are sorted by length inside; each score has its own completion's length."""
    policy = toy_policy()
    samples = [
        replace(s, completion_ids=s.completion_ids[: 1 + i % 4]) for i, s in enumerate(group(6))
    ]
    scored = score(policy, [samples], config(), PARTS)[0]
    alone = [score(policy, [[sample]], config(), WHOLE)[0][0] for sample in samples]
    for sample, one, other in zip(samples, scored, alone, strict=True):
        assert one.logprobs.shape == one.entropies.shape == (len(sample.completion_ids),)
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-5)
        np.testing.assert_allclose(one.entropies, other.entropies, atol=1e-5)
