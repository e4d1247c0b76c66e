"""Matrix products laid out for the CPU: the same numbers, the same gradients, nothing left over."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from grpo_core.model import cpu
from tests.toy import toy_policy

IDS = mx.array([[3, 9, 12, 40, 1]])


def patched():
    """What `fast_products` puts something else in the place of."""
    return nn.Linear.__call__, nn.Embedding.as_linear, mx.fast.scaled_dot_product_attention


def test_a_product_and_its_gradients_are_numpys():
    """x W', and by x and W, on more than two axes."""
    draw = np.random.default_rng(0)
    x, weight, pull = (
        draw.normal(size=(2, 3, 4)),
        draw.normal(size=(5, 4)),
        draw.normal(size=(2, 3, 5)),
    )
    arrays = [mx.array(a, mx.float32) for a in (x, weight)]
    (out,), slopes = mx.vjp(cpu.product, arrays, [mx.array(pull, mx.float32)])
    np.testing.assert_allclose(out, x @ weight.T, atol=1e-5)
    np.testing.assert_allclose(slopes[0], pull @ weight, atol=1e-5)
    np.testing.assert_allclose(slopes[1], np.einsum("abo,abi->oi", pull, x), atol=1e-5)


def attention_of(queries, keys, values, scale, is_causal):
    """In numpy's float64, head by head."""
    B, H, T, _ = queries.shape
    K, S = keys.shape[1:3]
    out = np.zeros((B, H, T, values.shape[-1]))
    for b in range(B):
        for h in range(H):
            shares = scale * queries[b, h] @ keys[b, h * K // H].T
            if is_causal:
                shares[np.arange(S) > np.arange(S - T, S)[:, None]] = -np.inf
            shares = np.exp(shares - shares.max(axis=-1, keepdims=True))
            shares /= shares.sum(axis=-1, keepdims=True)
            out[b, h] = shares @ values[b, h * K // H]
    return out


@pytest.mark.parametrize("is_causal", [True, False])
def test_attention_is_numpys(is_causal):
    """Four heads that share two, three queries behind four keys more, values of another width."""
    draw = np.random.default_rng(0)
    shapes = ((2, 4, 3, 8), (2, 2, 7, 8), (2, 2, 7, 5))
    arrays = [draw.normal(size=shape) for shape in shapes]
    out = cpu.attention(*[mx.array(a, mx.float32) for a in arrays], 0.4, is_causal)
    np.testing.assert_allclose(out, attention_of(*arrays, 0.4, is_causal), atol=1e-5)


@pytest.mark.parametrize("is_causal", [True, False])
def test_gradients_of_attention_are_finite_differences(is_causal):
    """By queries, keys and values, of numpy's attention in float64."""
    draw = np.random.default_rng(1)
    arrays = [draw.normal(size=shape) for shape in ((1, 2, 2, 3), (1, 1, 4, 3), (1, 1, 4, 2))]
    pull = draw.normal(size=(1, 2, 2, 2))
    _, slopes = mx.vjp(
        lambda *given: cpu.attention(*given, 0.7, is_causal),
        [mx.array(a, mx.float32) for a in arrays],
        [mx.array(pull, mx.float32)],
    )
    step = 1e-6
    for number, slope in enumerate(slopes):
        for place in np.ndindex(arrays[number].shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arrays]
                moved[number][place] += sign * step
                ends.append((pull * attention_of(*moved, 0.7, is_causal)).sum())
            assert slope[place].item() == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)


@pytest.mark.parametrize("is_slow", [True, False])
def test_exp_is_numpys(is_slow, monkeypatch):
    """To fp32's last digits, from where it vanishes to the top, and 0 for what is ruled out."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: is_slow)
    x = np.linspace(-80, 0, 4001, dtype=np.float32)
    np.testing.assert_allclose(cpu.exp(mx.array(x)), np.exp(x.astype(np.float64)), rtol=5e-6)
    assert cpu.exp(mx.array([-mx.inf, 0.0])).tolist() == [0.0, 1.0]
    assert np.isnan(cpu.exp(mx.array([mx.nan])).item())


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("train_type", ["full", "lora"])
def test_a_model_gives_the_same_logits_within_and_after(train_type, constant, monkeypatch):
    """And nn.Linear is its old self afterwards, also after an error."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: True)
    policy = toy_policy(train_type)
    before = patched()
    plain = policy.model(IDS)
    with pytest.raises(KeyError), cpu.fast_products(policy.model, constant=constant):
        assert not any(now is old for now, old in zip(patched(), before, strict=True))
        np.testing.assert_allclose(policy.model(IDS), plain, atol=1e-5)
        raise KeyError
    assert patched() == before


def test_masks_and_sinks_are_mlxs_business(monkeypatch):
    """What the fast way does not know takes the slow one: padding, attention sinks."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: True)
    draw = np.random.default_rng(2)
    q, k, v = (mx.array(draw.normal(size=(1, 2, 3, 8)), mx.float32) for _ in range(3))
    seen = mx.array([[1, 0, 0], [1, 1, 0], [0, 1, 1]]).astype(mx.bool_)
    for how in ({"mask": seen}, {"sinks": mx.array([0.3, -0.2])}, {"mask": "causal"}, {}):
        plain = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, **how)
        with cpu.fast_products(toy_policy().model, constant=False):
            fast = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.4, **how)
        np.testing.assert_allclose(fast, plain, atol=1e-5)


def test_elsewhere_nothing_happens(monkeypatch):
    """On a GPU or a Mac the layers stay as they are."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: False)
    before = patched()
    with cpu.fast_products(toy_policy().model, constant=True):
        assert patched() == before
