"""Adapters that are computed together, against mlx-lm's layer by layer."""

from contextlib import contextmanager

import mlx.core as mx
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

from grpo_core.model import joined_adapters, joined_products
from tests.toy import toy_policy

IDS = mx.array([[1, 2, 3], [4, 5, 6]])


@contextmanager
def joined(model):
    """Within it adapters are joined; gives the products that were computed, by their layers."""
    plain, make, made = LoRALinear.__call__, joined_adapters.Adapters.__init__, []

    def noted(adapters, layers):
        made.append(len(layers))
        make(adapters, layers)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(joined_adapters.Adapters, "__init__", noted)
        patches.setattr(LoRALinear, "__call__", joined_adapters.joined_adapters(model, plain))
        yield made


@pytest.mark.parametrize("bits", [0, 4])
def test_a_block_has_four_products_instead_of_seven(bits):
    """q, k and v; the output; gate and up; down. The logits are the same, whatever the base is."""
    model = toy_policy("lora", bits=bits).model.eval()
    expected = model(IDS)
    with joined(model) as made:
        found = model(IDS)
    assert sorted(made) == sorted([3, 2, 1, 1] * len(model.layers))
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=3e-6)


def test_the_adapters_matter():
    """Or the test above would pass with products that are left out."""
    model = toy_policy("lora").model.eval()
    expected = model(IDS)
    for layer in model.modules():
        if isinstance(layer, LoRALinear):
            layer.lora_b = mx.zeros_like(layer.lora_b)
    assert not np.allclose(np.array(model(IDS)), np.array(expected), atol=1e-2)


def test_in_large_models_each_layer_has_its_own(monkeypatch):
    """The zeros between the blocks take memory; the scale stands in the weights all the same."""
    monkeypatch.setattr(joined_adapters, "JOINED_BYTES", 0)
    model = toy_policy("lora").model.eval()
    expected = model(IDS)
    with joined(model) as made:
        found = model(IDS)
    assert made == [1] * 7 * len(model.layers)
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=3e-6)


def test_on_a_cpu_large_models_stay_as_they_are(monkeypatch):
    """There the products take long, not their number."""
    monkeypatch.setattr(joined_products, "JOINED_BYTES", 100)
    model = toy_policy("lora").model.eval()
    with joined(model) as made:
        model(IDS)
    assert made == []


def test_what_learns_and_other_kinds_stay_as_they_are():
    """A layer in training may drop out; DoRA scales the whole weight."""
    for model in (toy_policy("lora").model.train(), toy_policy("dora").model.eval()):
        with joined(model) as made:
            model(IDS)
        assert made == []
