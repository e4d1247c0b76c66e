"""The policy: its reference, the files that mlx-lm reads, and weights that do not fit."""

import json

import mlx.core as mx
import mlx.nn as nn
import mlx_lm
import numpy as np
import pytest
from mlx_lm.utils import load_model

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import tiny
from grpo_core.model.policy import load_policy
from tests.toy import put_in

IDS = mx.array([[5, 40, 7, 99, 12, 3]])
KINDS = ("lora", "dora", "full")


def config(**more):
    settings = {"model_name": "builtin/tiny", "quantize_for_rollouts": False, "lora_rank": 4}
    settings["dtype"] = "float32"  # auto quantises nothing on a CPU
    return MLXGRPOConfig(**{**settings, **more})


def shake(policy, seed=0):
    """Gives every trained weight a new value, as training would."""
    draw = np.random.default_rng(seed)
    weights = {
        name: value + mx.array(draw.normal(0, 0.05, value.shape), mx.float32)
        for name, value in policy.trainable().items()
    }
    policy.set_trainable(weights)
    return weights


def same(a, b):
    return mx.array_equal(a, b).item()


@pytest.fixture(scope="module")
def base_logits():
    """Of the shipped model as mlx-lm loads it, and of its 4-bit copy as mlx makes it."""
    plain, _ = load_model(tiny.model_path())
    quantized, _ = load_model(tiny.model_path())
    nn.quantize(quantized, group_size=64, bits=4)
    return {0: plain(IDS), 4: quantized(IDS)}


# -- the reference ---------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_the_reference_is_the_base_bit_for_bit(kind, bits, base_logits):
    """With adapters that have learned, on a plain and on a 4-bit base; and they come back."""
    policy = load_policy(config(train_type=kind, quantize_for_rollouts=bits > 0))
    assert policy.base_bits == bits
    assert {name.split(".")[-1] for name in policy.trainable()} <= {"lora_a", "lora_b", "m"}
    shake(policy)
    trained, weights = policy.model(IDS), policy.trainable()
    assert not np.allclose(trained, base_logits[bits], atol=1e-3)
    with policy.reference():
        assert same(policy.model(IDS), base_logits[bits])
    assert same(policy.model(IDS), trained)
    assert all(weights[name] is value for name, value in policy.trainable().items())


def test_the_reference_of_full_training_is_the_first_weights(base_logits):
    """They are kept with a KL term only; without one there is nothing to refer to."""
    policy = load_policy(config(train_type="full", kl_coeff=0.1))
    shake(policy)
    trained = policy.model(IDS)
    with pytest.raises(ZeroDivisionError), policy.reference():
        assert same(policy.model(IDS), base_logits[0])
        raise ZeroDivisionError
    assert same(policy.model(IDS), trained)
    without = load_policy(config(train_type="full"))
    with pytest.raises(ModelError, match="kl_coeff"), without.reference():
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_reference_that_is_synchronised_follows_the_policy(kind, base_logits):
    """At first it is the base; then the mean that numpy takes; at alpha = 1 the policy itself."""
    cfg = config(train_type=kind, kl_coeff=0.1, sync_ref_model=True)
    policy = load_policy(cfg)
    first = {name: np.array(value) for name, value in policy.trainable().items()}
    with policy.reference():
        assert same(policy.model(IDS), base_logits[0])
    expected = first
    for alpha in (0.6, 0.25):
        shake(policy)
        policy.sync_reference(alpha)
        own = {name: np.array(value) for name, value in policy.trainable().items()}
        expected = {name: alpha * own[name] + (1 - alpha) * old for name, old in expected.items()}
        with policy.reference():
            held = policy.trainable()
            for name, value in expected.items():
                np.testing.assert_allclose(held[name], value, rtol=1e-6, atol=1e-7)
        assert all(np.array_equal(policy.trainable()[name], own[name]) for name in own)
    policy.sync_reference(1.0)
    trained = policy.model(IDS)
    with policy.reference():
        assert same(policy.model(IDS), trained)


def test_a_reference_that_stays_is_not_moved():
    """New adapters are only taken out, without sync_ref_model: no weights of it are held."""
    with pytest.raises(ModelError, match="sync_ref_model"):
        load_policy(config(train_type="lora", kl_coeff=0.1)).sync_reference(0.5)


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_reloaded_a_policy_is_the_same_bit_for_bit(kind, bits, tmp_path):
    """Weights and logits, on a plain and on a 4-bit base."""
    cfg = config(train_type=kind, quantize_for_rollouts=bits > 0, seed=5)
    policy = load_policy(cfg)
    weights = shake(policy)
    policy.save(tmp_path / "final", cfg)
    again = put_in(load_policy(cfg), tmp_path / "final")
    assert all(same(value, weights[name]) for name, value in again.trainable().items())
    assert same(again.model(IDS), policy.model(IDS))


@pytest.mark.parametrize("kind", KINDS)
def test_mlx_lm_loads_what_is_saved(kind, tmp_path):
    """A whole folder with its tokenizer, or adapters on their base, whose name is in the file."""
    cfg = config(train_type=kind)
    policy = load_policy(cfg)
    shake(policy)
    folder = tmp_path / "final"
    policy.save(folder, cfg)
    if kind == "full":
        model, tokenizer = mlx_lm.load(str(folder))
    else:
        base = json.loads((folder / "adapter_config.json").read_text())["model"]
        model, tokenizer = mlx_lm.load(base, adapter_path=str(folder))
    assert same(model(IDS), policy.model(IDS))
    assert tokenizer.eos_token_ids == set(policy.eos_ids)
    messages = [{"role": "user", "content": "What is 1 + 2?"}]
    assert tokenizer.apply_chat_template(messages) == policy.tokenizer.apply_chat_template(messages)


def test_adapters_record_the_base_and_its_bits(tmp_path):
    """Whoever finds them knows what they were trained on."""
    cfg = config(quantize_for_rollouts=True)
    load_policy(cfg).save(tmp_path, cfg)
    made = json.loads((tmp_path / "adapter_config.json").read_text())
    assert made["base_model"] == "builtin/tiny"
    assert (made["base_bits"], made["base_quantized_at_load"]) == (4, True)
    assert (made["fine_tune_type"], made["num_layers"]) == ("lora", -1)
    assert made["lora_parameters"] == {"rank": 4, "scale": 2.0, "dropout": 0.0}


# -- what is refused --------------------------------------------------------------------------


def test_weights_that_do_not_fit_are_refused_before_any_is_set():
    """By name and by shape; the policy keeps what it had."""
    policy = load_policy(config())
    weights = policy.trainable()
    name = next(iter(weights))
    with pytest.raises(ModelError, match="do not fit"):
        policy.set_trainable({name: weights[name]})
    with pytest.raises(ModelError, match=name):
        policy.set_trainable({**weights, name: mx.zeros((1, 1))})
    assert all(weights[n] is value for n, value in policy.trainable().items())
