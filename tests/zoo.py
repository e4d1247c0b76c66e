"""Small random models of several makes, as policies: what shares a prompt, and what cannot."""

import importlib
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from grpo_core.model.policy import Policy
from grpo_core.model.shared_prefix import abilities
from grpo_core.model.trunk_head import SplitModel
from tests.toy import Letters

VOCAB = 48
EOS = 7

COMMON = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB,
    "max_position_embeddings": 256,
    "rope_theta": 10000.0,
}
MAKES = {
    "qwen3": {"tie_word_embeddings": False},  # a head of its own
    "gemma2": {},  # soft-capped logits, attention of its own with masks of its own shape
    "gpt2": {"n_ctx": 256, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256}
    | {"layer_norm_epsilon": 1e-5},  # learned positions
    "deepseek_v3": {"q_lora_rank": None, "kv_lora_rank": 8, "qk_nope_head_dim": 8}
    | {"qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": None, "rope_scaling": None},
    "mistral3": {"text_config": {"model_type": "llama", **COMMON}},  # a model within a model
    "llama": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 6},
    "mamba2": {"num_heads": 4, "state_size": 8, "conv_kernel": 4, "n_groups": 1, "chunk_size": 8}
    | {"use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True, "expand": 1}
    | {"time_step_limit": (0.0, float("inf")), "time_step_rank": "auto"}
    | {"layer_norm_epsilon": 1e-5},  # recurrent
}
SHARING = ("qwen3", "gemma2", "gpt2", "deepseek_v3", "mistral3")
MIXING = ("qwen3", "gpt2", "deepseek_v3", "mistral3")


def zoo_policy(make, seed=0):
    """A model of that make with random weights, all of them trained."""
    module = importlib.import_module(f"mlx_lm.models.{make}")
    model = module.Model(module.ModelArgs.from_dict({**COMMON, "model_type": make, **MAKES[make]}))
    draw = np.random.default_rng(seed)
    for name, value in tree_flatten(model.parameters()):
        if value.ndim >= 2:
            noise = mx.array(draw.normal(0, 0.2, value.shape), mx.float32)
            model.load_weights([(name, noise)], strict=False)
    model.eval()
    split = SplitModel(model)
    can = abilities(split, VOCAB)
    return Policy(
        model=model,
        tokenizer=Letters(),
        eos_ids=frozenset({EOS}),
        train_type="full",
        base=make,
        base_path=Path(make),
        base_bits=0,
        quantized_here=False,
        adapter=None,
        config={},
        vocab_size=VOCAB,
        split=split,
        can_share_prefix=can.share_prefix,
        initial=None,
        can_mix_lengths=can.mix_lengths,
    )
