"""Operations of the CPU backend against numpy in float64 and MLX's own; gradients by autograd."""

from contextlib import contextmanager

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.models import qwen2

from grpo_core.model import cpu, joined_products, lean_operations
from grpo_core.model.lean_kernels import (
    attention,
    plain_norm,
    plain_swiglu,
    rms_norm,
    swiglu,
    widened,
)
from tests.toy import toy_policy

ROPE, SOFTMAX_ATTENTION = mx.fast.rope, mx.fast.scaled_dot_product_attention


@pytest.fixture
def lean(monkeypatch):
    """As on a machine whose exponential is slow, whatever this one is."""
    for module in (cpu, lean_operations):
        monkeypatch.setattr(module, "has_slow_exp", lambda: True)


@pytest.fixture
def tables():
    """What is kept within one context."""
    return lean_operations.Tables()


def normal(*shape, seed=0):
    """Numbers to compute with."""
    return mx.random.normal(shape, key=mx.random.key(seed))


def assert_same(found, expected, atol=3e-6):
    """Of the same shape, and the same to fp32's last digits."""
    assert found.shape == expected.shape
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=atol)


def assert_same_slopes(found, expected, inputs, seed=9):
    """The gradients by all inputs under random weights of the output."""
    weights = normal(*expected(*inputs).shape, seed=seed)
    places = list(range(len(inputs)))
    slopes = [
        mx.grad(lambda *a, of=of: (of(*a) * weights).sum(), argnums=places)(*inputs)
        for of in (found, expected)
    ]
    for mine, theirs in zip(*slopes, strict=True):
        assert_same(mine, theirs, atol=1e-5)


# --- each operation


def test_swiglu_is_the_sigmoid_linear_unit():
    """x s(x) y in float64, also where e^-x is infinite or vanishes; and its slopes."""
    gate, x = normal(3, 40) * 5, normal(3, 40, seed=1)
    gate[0, :4] = mx.array([-200.0, 200.0, 0.0, -88.5])
    exact = np.array(gate, np.float64)
    with np.errstate(over="ignore"):
        expected = exact / (1 + np.exp(-exact)) * np.array(x, np.float64)
    for found in (swiglu(gate, x), plain_swiglu(gate, x)):
        np.testing.assert_allclose(np.array(found), expected, rtol=1e-5, atol=1e-30)
    assert_same_slopes(swiglu, lambda g, x: nn.silu(g) * x, [normal(3, 8), x[:, :8]])


def test_the_norm_divides_by_the_root_mean_square():
    """By hand in float64; slopes by MLX's own."""
    x, weight = normal(2, 3, 16), normal(16, seed=1)
    exact = np.array(x, np.float64)
    root = np.sqrt((exact**2).mean(axis=-1, keepdims=True) + 1e-5)
    for found in (rms_norm(x, weight, 1e-5), plain_norm(x, widened(weight), 1e-5)):
        np.testing.assert_allclose(np.array(found), exact / root * np.array(weight), atol=1e-6)
    assert_same_slopes(
        lambda x, w: rms_norm(x, w, 1e-5), lambda x, w: mx.fast.rms_norm(x, w, 1e-5), [x, weight]
    )


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("offset", [0, 7, 37, [3, 90, 1]])
def test_heads_are_turned_as_by_mlx(traditional, length, offset, tables):
    """For one position, several, and one a row; both pairings; forward and backward."""
    how = {"traditional": traditional, "base": 10000.0, "scale": 1.0}
    how["offset"] = mx.array(offset) if isinstance(offset, list) else offset
    x = normal(3, 2, length, 8)
    assert_same(tables.rotated(x, 8, ROPE, **how), ROPE(x, 8, **how))
    assert_same_slopes(
        lambda x: tables.rotated(x, 8, ROPE, **how), lambda x: ROPE(x, 8, **how), [x]
    )


def test_frequencies_may_be_given(tables):
    """As by models with a scaled rotary embedding."""
    how = {"traditional": False, "base": None, "scale": 0.5, "offset": 2}
    how["freqs"] = mx.arange(1, 5).astype(mx.float32) * 3
    x = normal(1, 2, 4, 8)
    assert_same(tables.rotated(x, 8, ROPE, **how), ROPE(x, 8, **how))


def test_heads_that_are_turned_in_part_are_mlxs_business(tables):
    """Four of eight numbers; and 16 bits."""
    how = {"traditional": False, "base": 10000.0, "scale": 1.0, "offset": 3}
    for x, dims in ((normal(1, 2, 4, 8), 4), (normal(1, 2, 4, 8).astype(mx.float16), 8)):
        assert mx.array_equal(tables.rotated(x, dims, ROPE, **how), ROPE(x, dims, **how))


def test_a_table_is_made_once_for_all_layers(tables, monkeypatch):
    """And for so many positions at once; anew for the next ones."""
    made = []
    angles = lean_operations.angles
    monkeypatch.setattr(lean_operations, "angles", lambda *a: (made.append(1), angles(*a))[1])
    how = {"traditional": False, "base": 10000.0, "scale": 1.0}
    for offset in (4, 4, 4, 5, lean_operations.POSITIONS):
        tables.rotated(normal(1, 2, 1, 8), 8, ROPE, offset=offset, **how)
    assert len(made) == 2


MASKS = {
    "none": None,
    "causal": "causal",
    "yes and no": mx.random.uniform(shape=(3, 1, 4, 9), key=mx.random.key(3)) > 0.3,
    "added": mx.random.normal((4, 9), key=mx.random.key(4)),
    "by head": mx.random.normal((3, 4, 4, 9), key=mx.random.key(5)),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
@pytest.mark.parametrize("length", [1, 4])
def test_attention_is_mlxs(mask, length, tables):
    """With four heads on two; a mask of each kind; forward and backward."""
    q, k, v = (normal(3, h, t, 8, seed=h + t) for h, t in ((4, 4), (2, 9), (2, 9)))
    q = q[:, :, :length]
    if isinstance(mask, mx.array):
        mask = mask[..., :length, :]

    def mine(q, k, v):
        return tables.attended(q, k, v, SOFTMAX_ATTENTION, scale=0.4, mask=mask)

    def theirs(q, k, v):
        return SOFTMAX_ATTENTION(q, k, v, scale=0.4, mask=mask)

    assert_same(mine(q, k, v), theirs(q, k, v))
    assert_same_slopes(mine, theirs, [q, k, v])


def test_attention_holds_for_scores_that_overflow_alone():
    """Scores of some hundreds: only what lies below the top is ever raised to a power."""
    q, k, v = normal(1, 1, 2, 8) * 40, normal(1, 1, 5, 8, seed=1) * 40, normal(1, 1, 5, 8, seed=2)
    scores = np.array(q, np.float64)[0, 0] @ np.array(k, np.float64)[0, 0].T
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    expected = odds / odds.sum(axis=1, keepdims=True) @ np.array(v, np.float64)[0, 0]
    np.testing.assert_allclose(np.array(attention(q, k, v, 1.0, None))[0, 0], expected, atol=1e-4)


# --- in a model


@contextmanager
def joined(model):
    """Within it siblings share a product; gives those that were computed."""
    plain, part, products = nn.Linear.__call__, joined_products.Product.part, []

    def counted(product, x, number):
        if number == 0:
            products.append(product)
        return part(product, x, number)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(joined_products.Product, "part", counted)
        patches.setattr(nn.Linear, "__call__", joined_products.joined_call(model, plain))
        yield products


def test_siblings_share_a_product():
    """The same numbers; in each layer one product for q, k and v, and one for gate and up."""
    model, ids = toy_policy("full").model, mx.array([[1, 2, 3], [4, 5, 6]])
    expected = model(ids)
    with joined(model) as products:
        assert_same(model(ids), expected)
    assert len(products) == len(model.layers) * 2


def test_large_models_keep_their_products(monkeypatch):
    """As joined weights are a copy. Under adapters the bases are joined as well."""

    def is_joined(model):
        with joined(model) as products:
            model(mx.array([[1, 2]]))
        return bool(products)

    assert is_joined(toy_policy("full").model)
    assert is_joined(toy_policy("lora").model)
    monkeypatch.setattr(joined_products, "JOINED_BYTES", 100)
    assert not is_joined(toy_policy("full").model)
    assert not is_joined(toy_policy("lora").model)


@pytest.mark.parametrize("train_type", ["full", "lora"])
@pytest.mark.parametrize("gradient", [False, True])
def test_a_model_computes_the_same_within(train_type, gradient, lean):
    """Logits of a batch, and all that was put in its place is MLX's again afterwards."""
    model, ids = toy_policy(train_type).model, mx.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    model.eval()
    functions = mx.fast.rope, mx.fast.rms_norm, qwen2.swiglu, nn.Linear.__call__
    expected = model(ids)
    with lean_operations.lean_operations(model, gradient=gradient):
        assert mx.fast.rope is not functions[0]
        assert qwen2.swiglu is not functions[2]
        assert_same(model(ids), expected)
    assert (mx.fast.rope, mx.fast.rms_norm, qwen2.swiglu, nn.Linear.__call__) == functions
    assert mx.array_equal(model(ids), expected)


def test_nothing_is_changed_where_the_exponential_is_fast(monkeypatch):
    """A GPU has a kernel for each."""
    monkeypatch.setattr(lean_operations, "has_slow_exp", lambda: False)
    functions = mx.fast.rope, mx.fast.rms_norm, qwen2.swiglu
    with lean_operations.lean_operations(toy_policy("full").model, gradient=False):
        assert (mx.fast.rope, mx.fast.rms_norm, qwen2.swiglu) == functions
