"""A small random Qwen2 as a policy, for the tests that hold the trainer against numpy."""

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.models import qwen2

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model.adapters import add_adapters
from grpo_core.model.base_model import quantize_base
from grpo_core.model.policy import Policy
from grpo_core.model.trunk_head import SplitModel
from tests.oracle_model import Shape, with_dora_norms

VOCAB = 48
EOS = 7
TEMPERATURE = 0.7
LIMIT = 8
SHAPE = Shape(layers=2, heads=4, kv_heads=2, lora_scale=1.5)


class Letters:
    """A tokenizer whose every token is one character."""

    pad_token_id = None

    def decode(self, ids, **_):
        """Tokens as text."""
        return "".join(chr(ord("A") + token) for token in ids)


def config(**more):
    return MLXGRPOConfig(
        **{
            "temperature": TEMPERATURE,
            "max_new_tokens": LIMIT,
            "lora_rank": 4,
            "lora_scale": SHAPE.lora_scale,
            "quantize_for_rollouts": False,
            **more,
        }
    )


def toy_policy(train_type="full", seed=0, bits=0):
    """2 layers, hidden 64, 4 heads on 2 of keys and values; adapters are random too, not zero.

    `bits`: quantise the base, as `quantize_for_rollouts` does.
    """
    args = qwen2.ModelArgs(
        model_type="qwen2",
        hidden_size=64,
        num_hidden_layers=SHAPE.layers,
        intermediate_size=128,
        num_attention_heads=SHAPE.heads,
        num_key_value_heads=SHAPE.kv_heads,
        rms_norm_eps=SHAPE.norm_eps,
        vocab_size=VOCAB,
        rope_theta=SHAPE.rope_theta,
        tie_word_embeddings=True,
    )
    model, draw = qwen2.Model(args), np.random.default_rng(seed)
    fill(model, draw)
    adapter = None
    if bits:
        quantize_base(model, 64, bits)
    if train_type != "full":
        model.freeze()
        adapter = add_adapters(model, config(train_type=train_type))
        fill(model, draw, only=("lora_a", "lora_b"))
    return Policy(
        model=model,
        tokenizer=Letters(),
        eos_ids=frozenset({EOS}),
        train_type=train_type,
        base="toy",
        base_path=Path("toy"),
        base_bits=bits,
        held_as=f"float32 in {bits} bits" if bits else "float32",
        quantized_here=bits > 0,
        adapter=adapter,
        config={},
        vocab_size=VOCAB,
        split=SplitModel(model),
        can_share_prefix=True,
        reference_weights=None,
        starts_trained=train_type == "full",
    )


def fill(model, draw, only=("",)):
    """Random weights, those of the norms around 1; `only` is how their names end."""
    for name, value in tree_flatten(model.parameters()):
        if name.endswith(only):
            noise = mx.array(draw.normal(0, 0.15, value.shape), dtype=mx.float32)
            model.load_weights([(name, 1 + noise if "norm" in name else noise)], strict=False)


def weights_of(policy):
    """Every weight by name, in float64, as the oracle's model wants them."""
    found = dict(tree_flatten(policy.model.parameters()))
    for name, module in policy.model.named_modules():
        if hasattr(module, "bits"):
            parts = (found.pop(f"{name}.{part}") for part in ("weight", "scales", "biases"))
            whole = mx.dequantize(*parts, group_size=module.group_size, bits=module.bits)
            found[f"{name}.weight"] = whole
    return with_dora_norms({k: np.array(v, np.float64) for k, v in found.items()}, SHAPE)


def put_in(policy, folder):
    """The policy with the weights that `Policy.save` wrote to `folder`."""
    files = folder.glob("model*.safetensors" if policy.adapter is None else "adapters.safetensors")
    policy.set_trainable({k: v for file in files for k, v in mx.load(str(file)).items()})
    return policy
