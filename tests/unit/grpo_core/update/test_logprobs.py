"""Log-probs and entropies through the head, whole and in chunks, against float64 numpy."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_unflatten

from grpo_core.update.logprobs import Head, token_stats
from tests.toy import toy_policy
from tests.zoo import zoo_policy

ROWS, TEMPERATURE = 11, 0.7


def numpy_stats(hidden, weight, ids):
    """Log-probs and entropies [N] of softmax(hidden W' / temperature)."""
    logits = hidden @ weight.T / TEMPERATURE
    logits = logits - logits.max(axis=-1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logps[np.arange(len(ids)), ids], -(np.exp(logps) * logps).sum(axis=-1)


def numpy_slopes(hidden, weight, ids, pull, entropy_pull):
    """The gradients of sum(pull * logps + entropy_pull * entropies), by the textbook.

    With z the logits over the temperature: d log p_i / dz = onehot_i - p, dH / dz = -p (log p + H).
    """
    logits = hidden @ weight.T / TEMPERATURE
    logps = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    probs = np.exp(logps)
    entropy = -(probs * logps).sum(axis=-1, keepdims=True)
    onehot = np.eye(weight.shape[0])[ids]
    slope = pull[:, None] * (onehot - probs) - entropy_pull[:, None] * probs * (logps + entropy)
    slope /= TEMPERATURE
    return slope @ weight, slope.T @ hidden


def setting(make):
    """A policy, the name of its head's weight, hidden states, tokens and cotangents."""
    policy = zoo_policy(make)
    name = "lm_head.weight" if make == "qwen3" else "model.embed_tokens.weight"
    draw = np.random.default_rng(1)
    hidden = draw.normal(0, 1, (ROWS, 32)).astype(np.float32)
    ids = draw.integers(0, 48, ROWS)
    return policy, name, hidden, ids, draw.normal(size=ROWS), draw.normal(size=ROWS)


@pytest.mark.parametrize("entropy_gradient", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("make", ["qwen3", "llama"])
def test_values_and_gradients_are_numpys_in_any_chunk(make, chunk, entropy_gradient):
    """With a head of its own and with the embedding as head; by states and by the head's weight."""
    policy, name, hidden, ids, pull, entropy_pull = setting(make)
    weight = np.array(policy.trainable()[name], np.float64)
    assert policy.split.head_names == (name,)

    def total(params, hidden):
        policy.model.update(tree_unflatten(list(params.items())))
        logps, entropies = token_stats(
            policy.split, hidden, mx.array(ids), Head(TEMPERATURE, chunk, entropy_gradient)
        )
        weighed = logps * mx.array(pull, mx.float32) + entropies * mx.array(
            entropy_pull, mx.float32
        )
        return weighed.sum(), (logps, entropies)

    run = mx.value_and_grad(total, argnums=(0, 1))
    (_, found), (by_weights, by_hidden) = run(policy.trainable(), mx.array(hidden))
    wide = hidden.astype(np.float64)
    for one, other in zip(found, numpy_stats(wide, weight, ids), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    if not entropy_gradient:
        entropy_pull = np.zeros(ROWS)
    expected = numpy_slopes(wide, weight, ids, pull, entropy_pull)
    np.testing.assert_allclose(by_hidden, expected[0], atol=1e-5 * np.abs(expected[0]).max())
    np.testing.assert_allclose(by_weights[name], expected[1], atol=1e-5 * np.abs(expected[1]).max())
    others = [grad for other, grad in by_weights.items() if other != name]
    assert not any(grad.any().item() for grad in others)


def test_a_frozen_head_needs_no_gradient_of_its_own():
    """With adapters the head's weights are constants, in chunks as well."""
    policy = toy_policy("lora")
    assert policy.split.head_parameters() == {}
    hidden = mx.array(np.random.default_rng(0).normal(size=(ROWS, 64)), mx.float32)
    ids = mx.zeros((ROWS,), mx.int32)

    def total(hidden, chunk):
        return token_stats(policy.split, hidden, ids, Head(TEMPERATURE, chunk))[0].sum()

    whole, parts = (mx.grad(total)(hidden, chunk) for chunk in (100, 3))
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert np.abs(whole).max() > 0.1


def test_the_model_holds_its_own_weights_afterwards():
    """The chunked pass puts traced copies in while it works."""
    policy, name, hidden, ids, *_ = setting("qwen3")
    before = policy.trainable()
    token_stats(policy.split, mx.array(hidden), mx.array(ids), Head(TEMPERATURE, 3))
    assert policy.trainable()[name] is before[name]


def test_a_chunk_bounds_the_memory():
    """4,096 positions of 4,096 words in chunks of 64: a fraction of one array of all logits.

    About ten chunks are alive at once, as MLX allocates ahead of its work.
    """
    vocab, width = 4096, 32
    policy = zoo_policy("llama")
    policy.model.model.embed_tokens.weight = mx.random.normal((vocab, width), key=mx.random.key(0))
    hidden = mx.random.normal((4096, width), key=mx.random.key(1))
    ids = mx.zeros((4096,), mx.int32)
    mx.eval(policy.model.parameters(), hidden)
    assert policy.split.head_names

    def total(hidden):
        return token_stats(policy.split, hidden, ids, Head(1.0, 64))[0].sum()

    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(mx.value_and_grad(total)(hidden))
    assert mx.get_peak_memory() - before < 4096 * vocab * 4 / 4
