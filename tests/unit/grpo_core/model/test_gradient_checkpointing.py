"""Recomputed layers: the gradient of plain autograd, and a word where that cannot be."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import qwen3

from grpo_core.errors import ModelError
from grpo_core.model.gradient_checkpointing import checkpointed, keeps_gradient
from grpo_core.update.memory_plan import plan_memory
from tests.toy import config
from tests.zoo import VOCAB, zoo_model, zoo_policy

# What a layer takes from an earlier one besides its input.
TAKES = {
    "gemma4_text": "shared keys and values, and an input per layer",
    "gemma3n": "an input per layer",
    "hunyuan": "keys and values of every second layer",
    "rwkv7": "the first layer's values",
    "afm7": "keys and values through a cache that the model makes itself",
    "nanbeige": "nothing, but runs twice",
    "gptj": "nothing, but names its input",
    "qwen3": "nothing",
}


def gradient_of(model, recompute):
    """By mlx's autograd, of the mean log-prob of some tokens."""
    ids = mx.array(np.random.default_rng(0).integers(8, VOCAB, (2, 14)))
    weights = dict(tree_flatten(model.trainable_parameters()))

    def loss(weights):
        model.update(tree_unflatten(list(weights.items())))
        logits = model(ids)[:, :-1]
        logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        return mx.take_along_axis(logps, ids[:, 1:, None], -1).mean()

    if not recompute:
        return mx.grad(loss)(weights)
    with checkpointed(model):
        return mx.grad(loss)(weights)


@pytest.mark.parametrize("make", TAKES)
def test_recomputed_layers_give_the_gradient_of_plain_autograd(make):
    """By every weight, whatever else goes from layer to layer."""
    model = zoo_model(make)
    plain, again = gradient_of(model, False), gradient_of(model, True)
    largest = max(mx.abs(grad).max().item() for grad in plain.values())
    assert largest > 0
    for name, grad in plain.items():
        np.testing.assert_allclose(again[name], grad, atol=2e-6 * largest, err_msg=name)


@pytest.mark.parametrize("make", ["gemma4_text", "hunyuan", "lfm2", "qwen3_next"])
def test_the_probe_agrees_behind_a_shared_prompt_too(make):
    """What a layer hands on may be what it caches, once for both."""
    policy = zoo_policy(make)
    assert policy.can_share_prefix
    for shares in (False, True):
        assert keeps_gradient(policy.split, shares)


def hiding(policy):
    """The same policy, whose layers leave their output where no argument shows it."""
    seen = []
    call = qwen3.TransformerBlock.__call__

    class Hiding(qwen3.TransformerBlock):
        def __call__(self, x, *args, **kwargs):
            out = call(self, x, *args, **kwargs) + (seen[-1] if seen else 0)
            seen[:] = [out]
            return out

    for layer in policy.model.layers:
        layer.__class__ = Hiding
    original = type(policy.model).__call__

    class Fresh(type(policy.model)):
        def __call__(self, *args, **kwargs):
            seen.clear()
            return original(self, *args, **kwargs)

    policy.model.__class__ = Fresh
    return policy


def test_a_layer_that_hides_what_it_takes_is_not_recomputed():
    """Asked for, it is refused by name; left to the memory plan, it stays off with a line."""
    policy = hiding(zoo_policy("qwen3"))
    assert not keeps_gradient(policy.split, policy.can_share_prefix)
    cfg = config(train_type="full", grad_checkpoint="on")
    with pytest.raises(ModelError, match=r"qwen3.*grad_checkpoint"):
        plan_memory(policy, cfg)
    said = []
    cfg = config(train_type="full", grad_checkpoint="auto", memory_limit_gb=1e-6)
    assert not plan_memory(policy, cfg, said.append).grad_checkpoint
    (line,) = said
    assert "grad_checkpoint" in line
