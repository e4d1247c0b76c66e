"""The gated delta rule in chunks: mlx-lm's loop over tokens, numpy in float64, and its memory."""

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.models.gated_delta import gated_delta_update

from grpo_core.model import gated_delta
from grpo_core.model.gated_delta import gated_delta_rule
from tests.zoo import zoo_model

# B, T, K, H, D, E, and whether each channel has a gate: whole chunks, a part of one, several.
CASES = [
    (2, 1, 2, 2, 8, 8, False),
    (2, 7, 2, 4, 8, 4, False),
    (1, 64, 1, 1, 4, 8, False),
    (1, 150, 1, 2, 4, 4, False),
    (2, 2, 1, 2, 4, 4, True),
    (1, 37, 1, 2, 4, 8, True),
]


def inputs(case, seed=0):
    """Queries, keys of length 1, values, gates, shares and a state, in float64."""
    B, T, K, H, D, E, by_channel = case
    draw = np.random.default_rng(seed)
    keys = draw.normal(size=(B, T, K, D))
    gates = draw.normal(size=(B, T, H, D) if by_channel else (B, T, H))
    return [
        draw.normal(size=(B, T, K, D)),
        keys / np.linalg.norm(keys, axis=-1, keepdims=True),
        draw.normal(size=(B, T, H, E)),
        1 / (1 + np.exp(-gates)),
        1 / (1 + np.exp(-draw.normal(size=(B, T, H)))),
        draw.normal(size=(B, H, E, D)),
    ]


def by_hand(q, k, v, g, beta, state, mask=None):
    """Token by token as the paper has it: outputs and last state, in float64."""
    state, outputs = state.copy(), np.zeros(v.shape)
    for b, t, h in np.ndindex(*v.shape[:3]):
        head = h // (v.shape[2] // k.shape[2])
        before = state[b, h].copy()
        S = before * g[b, t, h]
        S = S + beta[b, t, h] * np.outer(v[b, t, h] - S @ k[b, t, head], k[b, t, head])
        outputs[b, t, h] = S @ q[b, t, head]
        state[b, h] = S if mask is None or mask[b, t] else before
    return outputs, state


def in_mlx(arrays):
    return [mx.array(array.astype(np.float32)) for array in arrays]


@pytest.mark.parametrize("case", CASES)
def test_outputs_and_state_are_those_of_the_paper(case):
    """Against numpy, token by token."""
    arrays = inputs(case)
    for found, expected in zip(gated_delta_rule(*in_mlx(arrays)), by_hand(*arrays), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("case", CASES[1:])
def test_gradient_is_that_of_finite_differences(case):
    """By every argument, along random directions, of random sums of outputs and state."""
    arrays = inputs(case)
    draw = np.random.default_rng(1)
    weights = [draw.normal(size=x.shape) for x in by_hand(*arrays)]
    as_mlx = in_mlx(weights)

    def total(*args):
        pairs = zip(gated_delta_rule(*args), as_mlx, strict=True)
        return sum((found * weight).sum() for found, weight in pairs)

    grads = mx.grad(total, argnums=tuple(range(6)))(*in_mlx(arrays))
    step = 1e-5
    for place, grad in enumerate(grads):
        way = draw.normal(size=grad.shape)
        ends = []
        for sign in (1, -1):
            moved = list(arrays)
            moved[place] = moved[place] + sign * step * way
            pairs = zip(by_hand(*moved), weights, strict=True)
            ends.append(sum((found * weight).sum() for found, weight in pairs))
        slope = (ends[0] - ends[1]) / (2 * step)
        scale = np.linalg.norm(way) * np.linalg.norm(np.array(grad))
        assert (np.array(grad, np.float64) * way).sum() == pytest.approx(slope, abs=1e-4 * scale)


def test_a_token_that_is_masked_leaves_the_state_alone():
    """As where prompts are padded on the left."""
    arrays = inputs((2, 9, 1, 2, 4, 4, False))
    mask = np.ones((2, 9), bool)
    mask[1, :4] = False
    outputs, state = gated_delta_rule(*in_mlx(arrays), mx.array(mask))
    expected, last = by_hand(*arrays, mask)
    np.testing.assert_allclose(state, last, atol=1e-5)
    np.testing.assert_allclose(outputs[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(outputs[1, 4:], expected[1, 4:], atol=1e-5)


def test_equal_keys_that_nothing_fades_stay_exact():
    """The hardest solve: each token undoes what the one before has written."""
    q, k, v, g, beta, state = inputs((1, 128, 1, 1, 4, 4, False))
    arrays = [q, np.broadcast_to(k[:, :1], k.shape), v, np.ones_like(g), np.ones_like(beta), state]
    outputs, _ = gated_delta_rule(*in_mlx(arrays))
    np.testing.assert_allclose(outputs, by_hand(*arrays)[0], atol=2e-5)


def test_a_gate_of_zero_forgets_and_its_gradient_is_finite():
    """Its logarithm is not."""
    arrays = inputs((1, 8, 1, 1, 4, 4, False))
    arrays[3][0, 5] = 0
    outputs, _ = gated_delta_rule(*in_mlx(arrays))
    np.testing.assert_allclose(outputs, by_hand(*arrays)[0], atol=1e-5)
    grad = mx.grad(lambda *args: gated_delta_rule(*args)[0].sum(), argnums=3)(*in_mlx(arrays))
    assert mx.isfinite(grad).all().item()


def test_a_gradient_keeps_one_state_for_each_chunk():
    """512 tokens, states of 64 x 64: the loop keeps several for each token, 9 MB a copy."""
    arrays = in_mlx(inputs((1, 512, 1, 1, 64, 64, False)))
    mx.eval(arrays)

    def peak(rule):
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(mx.grad(lambda *args: rule(*args)[0].sum(), argnums=(0, 1, 2))(*arrays))
        return mx.get_peak_memory() - before

    assert peak(gated_delta_rule) < peak(gated_delta._loop) / 4


@pytest.mark.parametrize("make", ["qwen3_next", "kimi_linear"])
def test_models_of_mlx_lm_take_it(make, monkeypatch):
    """Once installed: what a model calls goes through here, whether a gradient is taken or not."""
    model = zoo_model(make)
    ids = mx.arange(8, 20)[None]
    asked = []

    def counting(*args):
        asked.append(args[0].shape[1])
        return gated_delta_rule(*args)

    monkeypatch.setitem(gated_delta_update.__globals__, "gated_delta_ops", gated_delta._loop)
    looped = model(ids)
    monkeypatch.setattr(gated_delta, "gated_delta_rule", counting)
    gated_delta.install()
    for is_training in (False, True):
        model.train(is_training)
        np.testing.assert_allclose(model(ids), looped, atol=2e-5)
    assert asked == [12, 12]
