"""Matrix products laid out for the CPU: the same numbers, the same gradients, nothing left over."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from grpo_core import cpu
from tests.toy import toy_policy

IDS = mx.array([[3, 9, 12, 40, 1]])


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


@pytest.mark.parametrize("constant", [True, False])
@pytest.mark.parametrize("train_type", ["full", "lora"])
def test_a_model_gives_the_same_logits_within_and_after(train_type, constant, monkeypatch):
    """And nn.Linear is its old self afterwards, also after an error."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: True)
    policy = toy_policy(train_type)
    before = nn.Linear.__call__, nn.Embedding.as_linear
    plain = policy.model(IDS)
    with pytest.raises(KeyError), cpu.fast_products(policy.model, constant=constant):
        assert nn.Linear.__call__ is not before[0]
        np.testing.assert_allclose(policy.model(IDS), plain, atol=1e-5)
        raise KeyError
    assert (nn.Linear.__call__, nn.Embedding.as_linear) == before


def test_elsewhere_nothing_happens(monkeypatch):
    """On a GPU or a Mac the layers stay as they are."""
    monkeypatch.setattr(cpu, "is_slow_transposed", lambda: False)
    before = nn.Linear.__call__
    with cpu.fast_products(toy_policy().model, constant=True):
        assert nn.Linear.__call__ is before
