"""In which numbers a model is held: as asked, else what suits the device."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.utils import tree_flatten

from grpo_core.config import MLXGRPOConfig
from grpo_core.model import precision as module
from grpo_core.model.policy import load_policy
from grpo_core.model.precision import cast, precision
from tests.zoo import zoo_model

BF16 = {"torch_dtype": "bfloat16"}
FP32 = {"torch_dtype": "float32"}
MADE = {"torch_dtype": "bfloat16", "quantization": {"bits": 4}}


def on(monkeypatch, kind):
    class Device:
        type = kind

    monkeypatch.setattr(module.mx, "default_device", Device)


@pytest.mark.parametrize("config", [BF16, FP32, MADE, {"text_config": {"dtype": "bfloat16"}}])
def test_auto_on_a_cpu_is_float32_and_quantises_nothing(config, monkeypatch):
    """16 bits are 40 times slower there, 4 bits 100 times; a line says so where it differs."""
    on(monkeypatch, mx.DeviceType.cpu)
    for wanted in (True, False):
        found = precision(config, MLXGRPOConfig(quantize_for_rollouts=wanted))
        assert (found.dtype, found.quantize, found.casts) == (mx.float32, False, True)
        assert bool(found.note) == (config is not FP32 or wanted)


@pytest.mark.parametrize(("config", "quantizes"), [(BF16, True), (FP32, True), (MADE, False)])
def test_auto_on_a_gpu_leaves_the_weights_as_they_are(config, quantizes, monkeypatch):
    """And quantises what is not quantised and not trained in full."""
    on(monkeypatch, mx.DeviceType.gpu)
    found = precision(config, MLXGRPOConfig())
    assert (found.casts, found.quantize, found.note) == (False, quantizes, "")
    assert not precision(config, MLXGRPOConfig(train_type="full")).quantize


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_a_type_that_is_asked_for_is_taken_with_all_that_was_configured(name):
    """On the CPU, too: someone may want to see what a Mac computes."""
    cfg = MLXGRPOConfig(model_name="builtin/tiny", lora_rank=2, dtype=name)
    policy = load_policy(cfg)
    assert policy.model(mx.array([[3, 5]])).dtype == getattr(mx, name)
    kinds = {type(layer) for _, layer in policy.model.named_modules()}
    assert nn.QuantizedLinear in kinds
    assert {array.dtype for array in policy.trainable().values()} == {mx.float32}
    assert policy.notes == ()


def test_a_run_on_the_cpu_says_what_it_took():
    """The shipped model is float32, and would be quantised elsewhere."""
    policy = load_policy(MLXGRPOConfig(model_name="builtin/tiny", lora_rank=2))
    assert policy.base_bits == 0
    (line,) = policy.notes
    assert "float32 and not quantised" in line


def test_what_a_maker_quantised_is_said_to_be_slow_on_a_cpu(monkeypatch):
    """Nothing is done to it, so the line is not that it was left unquantised."""
    on(monkeypatch, mx.DeviceType.cpu)
    assert "its maker quantised it" in precision(MADE, MLXGRPOConfig()).note


def test_what_a_family_keeps_in_float32_stays_so():
    """mlx-lm's qwen3_5 names `A_log` in its cast_predicate: its decay needs the digits."""
    model = zoo_model("qwen3_5", 0, 2, 512)
    cast(model, mx.bfloat16)
    kept = {
        name.rsplit(".", 1)[-1]
        for name, array in tree_flatten(model.parameters())
        if array.dtype == mx.float32
    }
    assert kept == {"A_log"}
