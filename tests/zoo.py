"""Small random models of mlx-lm's families, as policies: what each can do, and what it cannot.

`MAKES` names the model type and what its config.json says beside `COMMON`. `FEW` is the handful
that stands for all in the ordinary suite: one for each way to keep a prompt.
"""

import importlib
import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from grpo_core.model import gated_delta, tiny
from grpo_core.model.base_model import call_constructor
from grpo_core.model.policy import Policy
from grpo_core.model.shared_prefix import abilities
from grpo_core.model.trunk_head import SplitModel
from tests.toy import Letters

VOCAB = 48
EOS = 7
WINDOW = 6  # tokens: shorter than the tests' prompts

# Without what a family spells otherwise. `from_dict` takes what it knows and leaves the rest.
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
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5,
    "norm_eps": 1e-5,
    # experts
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "num_experts_per_token": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "moe_top_k": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 32,
    "shared_intermediate_size": 32,
    "num_shared_experts": 1,
    "n_shared_experts": 1,
    "num_shared_expert": 1,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "n_group": 1,
    "topk_group": 1,
    "routed_scaling_factor": 1.0,
    "moe_layer_freq": 1,
    "first_k_dense_replace": 1,
    "num_dense_layers": 1,
    # compressed keys and values
    "q_lora_rank": 16,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "use_qk_norm": False,
}

WINDOWED = {"sliding_window": WINDOW, "sliding_window_pattern": 2}
BY_TURNS = WINDOWED | {"layer_types": ["sliding_attention", "full_attention"]}
GPT = {"n_ctx": 256, "n_embd": 32, "n_head": 4, "n_layer": 2, "n_positions": 256, "n_inner": 48}
SCALED = {"embedding_multiplier": 1.0, "attention_multiplier": 0.35, "residual_multiplier": 1.0}
SCALED |= {"logits_scaling": 1.0}
MINICPM = {"dim_model_base": 32, "scale_depth": 1.4, "scale_emb": 1}
MAMBA = {"state_size": 8, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True}
MAMBA |= {"time_step_rank": 4, "expand": 2, "intermediate_size": 64}
MAMBA2 = {"num_heads": 4, "state_size": 8, "conv_kernel": 4, "n_groups": 1, "chunk_size": 8}
MAMBA2 |= {"use_bias": False, "use_conv_bias": True, "expand": 1, "time_step_rank": "auto"}
MAMBA2 |= {"time_step_limit": (0.0, float("inf"))}
HYBRID_MAMBA = {"mamba_d_conv": 4, "mamba_d_state": 8, "mamba_d_head": 8, "mamba_n_heads": 4}
HYBRID_MAMBA |= {"mamba_d_ssm": 32, "mamba_n_groups": 1, "mamba_expand": 1, "mamba_step": 2}
HYBRID_MAMBA |= {"mamba_proj_bias": False, "mamba_conv_bias": True, "mamba_num_heads": 4}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8}
DELTA |= {"linear_value_head_dim": 8, "linear_conv_kernel_dim": 4, "full_attention_interval": 2}
DELTA |= {"partial_rotary_factor": 0.5, "linear_allow_neg_eigval": True}
DELTA |= {"layer_types": ["linear_attention", "full_attention"]}
SHORT_CONV = {"conv_L_cache": 3, "conv_bias": False, "layer_types": ["conv", "full_attention"]}
SHORT_CONV |= {"block_dim": 32, "block_ff_dim": 48, "block_multiple_of": 16}
SHORT_CONV |= {"block_ffn_dim_multiplier": 1.0, "block_auto_adjust_ff_dim": False}
GEMMA4 = {"sliding_window": WINDOW, "num_hidden_layers": 4, "num_kv_shared_layers": 2}
GEMMA4 |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "global_head_dim": 8}
GEMMA4 |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB}
GEMMA3N = {"num_hidden_layers": 4, "sliding_window": WINDOW, "num_kv_shared_layers": 2}
GEMMA3N |= {"layer_types": ["sliding_attention", "full_attention"] * 2, "laurel_rank": 4}
GEMMA3N |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB}
GEMMA3N |= {"altup_num_inputs": 2, "altup_active_idx": 0, "altup_coef_clip": 120.0}
GEMMA3N |= {"altup_correct_scale": True, "activation_sparsity_pattern": [0.5, 0.5, 0, 0]}
GEMMA3N |= {"intermediate_size": [48] * 4, "final_logit_softcapping": 30.0}
GEMMA3N |= {"rope_local_base_freq": 10000.0, "query_pre_attn_scalar": 8, "rope_scaling": None}
KDA = {"linear_attn_config": {"kda_layers": [1], "full_attn_layers": [2], "num_heads": 4}}
KDA["linear_attn_config"] |= {"head_dim": 8, "short_conv_kernel_size": 4}
KDA |= {"model_max_length": 256}
LONGCAT = {"num_layers": 2, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 32}
LONGCAT |= {"zero_expert_num": 2, "zero_expert_type": "identity", "attention_method": "MLA"}
LONGCAT |= {"mla_scale_q_lora": True, "mla_scale_kv_lora": True}
NEMOTRON_H = {"mamba_num_heads": 4, "mamba_head_dim": 8, "mamba_proj_bias": False}
NEMOTRON_H |= {"ssm_state_size": 8, "conv_kernel": 4, "n_groups": 1, "use_bias": False}
NEMOTRON_H |= {"use_conv_bias": True, "hybrid_override_pattern": ["M", "*", "-"]}
NEMOTRON_H |= {"num_hidden_layers": 3}
YARN = {"type": "yarn", "factor": 2.0, "mscale_all_dim": 1.0, "mscale": 1.0}
YARN |= {"original_max_position_embeddings": 128, "beta_fast": 32, "beta_slow": 1}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}

NAS_BLOCK = {"attention": {"no_op": False, "replace_with_linear": False, "n_heads_in_group": 2}}
NAS_BLOCK |= {"ffn": {"no_op": False, "replace_with_linear": False, "ffn_mult": 1.0}}
LLAMA4 = {"intermediate_size_mlp": 48, "attention_chunk_size": WINDOW, "rope_scaling": None}
LLAMA4 |= {"interleave_moe_layer_step": 2, "num_hidden_layers": 4, "num_experts_per_tok": 1}
SCALING = {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 128}


def _within(model_type, **more):
    """The configuration of a model within a model, as vision models have it."""
    return {"text_config": {**COMMON, **more, "model_type": model_type}}


MAKES = {
    "Klear": {},
    "afm7": {"hidden_dim": 32, "num_layers": 4, "num_kv_reuse_layers": 2}
    | {"num_heads": 4, "num_kv_heads": 2},
    "afmoe": BY_TURNS,
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"sliding_window": WINDOW, "sliding_window_layers": [0], "conv_window": 2}
    | {"tie_word_embeddings": False},
    "bailing_hybrid": {"layer_group_size": 2, "group_norm_size": 1},
    "bailing_moe": {},
    "bailing_moe_linear": {"layer_group_size": 2, "group_norm_size": 1},
    "bailing_moe_v3": {"layer_group_size": 2, "short_conv_kernel_size": 4},
    "cohere": {},
    "cohere2": WINDOWED,
    "dbrx": {"tie_word_embeddings": False, "d_model": 32, "n_layers": 2, "n_heads": 4}
    | {"ffn_config": {"moe_num_experts": 4, "moe_top_k": 2, "ffn_hidden_size": 32}}
    | {"attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0}},
    "deepseek": {},
    "deepseek_v2": {"rope_scaling": YARN},
    "deepseek_v3": {"q_lora_rank": None, "first_k_dense_replace": 2},
    "deepseek_v32": {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4},
    "dots1": {"scoring_func": "noaux_tc"},
    "ernie4_5": {"use_bias": False},
    "ernie4_5_moe": {"use_bias": False, "moe_num_shared_experts": 1},
    "exaone": {"num_layers": 2},
    "exaone4": BY_TURNS | {"sliding_window_pattern": "LG", "rope_scaling": None},
    "exaone_moe": BY_TURNS | {"is_moe_layer": [False, True]},
    "falcon_h1": HYBRID_MAMBA,
    "gear": BY_TURNS | {"query_pre_attn_scalar": 8},
    "gemma": {},
    "gemma2": {},  # soft-capped logits, attention of its own with masks of its own shape
    "gemma3": _within("gemma3_text", query_pre_attn_scalar=8, **WINDOWED),
    "gemma3_text": WINDOWED | {"query_pre_attn_scalar": 8},
    "gemma3n": _within("gemma3n", **GEMMA3N),
    "gemma4": _within("gemma4_text", **GEMMA4),
    "gemma4_text": GEMMA4,
    "glm": {},
    "glm4": {"partial_rotary_factor": 0.5},
    "glm4_moe": {"partial_rotary_factor": 0.5, "rope_scaling": None},
    "glm4_moe_lite": {},
    "glm_moe_dsa": {"index_head_dim": 16, "index_n_heads": 2, "index_topk": 4}
    | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "rope_parameters": ROPE},
    "gpt2": GPT,  # learned positions
    "gpt_bigcode": GPT,
    "gpt_neox": {"rotary_emb_base": 10000, "rotary_pct": 0.5},
    "gpt_oss": BY_TURNS,
    "gptj": GPT | {"rotary_dim": 4},
    "granite": SCALED,
    "granitemoe": SCALED,
    "granitemoehybrid": SCALED | HYBRID_MAMBA | {"layer_types": ["mamba", "attention"]},
    "helium": {},
    "hunyuan": {"use_mixed_mlp_moe": False, "use_cla": True, "cla_share_factor": 2}
    | {
        "num_experts": 1,
        "moe_topk": 1,
        "rope_scaling": {"type": "dynamic", "alpha": 1.0, "factor": 1.0},
    },
    "hunyuan_v1_dense": {},
    "internlm2": {},
    "internlm3": {},
    "iquestloopcoder": {"loop_window_size": WINDOW, "loop_num": 2},
    "jamba": HYBRID_MAMBA
    | {"attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1}
    | {"expert_layer_period": 2},
    "kimi_k25": _within("deepseek_v3"),
    "kimi_linear": KDA,
    "kimi_vl": _within("deepseek_v3"),
    "laguna": BY_TURNS | {"mlp_layer_types": ["dense", "sparse"]},
    "lfm2": SHORT_CONV,
    "lfm2-vl": _within("lfm2", **SHORT_CONV),
    "lfm2_moe": SHORT_CONV | {"use_expert_bias": True},
    "lille-130m": GPT | {"n_embd": 192, "block_size": 256, "n_kv_heads": 2},
    "llama": {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": WINDOW},
    "llama4": _within("llama4_text", **LLAMA4),
    "llama4_text": {"intermediate_size_mlp": 48, "no_rope_layers": [1, 0]},
    "longcat_flash": LONGCAT,
    "longcat_flash_ngram": LONGCAT
    | {"emb_neighbor_num": 2, "emb_split_num": 2}
    | {"ngram_vocab_size_ratio": 2},
    "mamba": MAMBA,
    "mamba2": MAMBA2,
    "mellum": BY_TURNS | {"rope_parameters": {t: ROPE for t in BY_TURNS["layer_types"]}},
    "mimo": {},
    "mimo_v2_flash": {"hybrid_layer_pattern": [1, 0], "sliding_window_size": WINDOW}
    | {"add_swa_attention_sink_bias": True, "add_full_attention_sink_bias": False}
    | {"topk_method": "noaux_tc", "scoring_func": "sigmoid", "layernorm_epsilon": 1e-5}
    | {"swa_rope_theta": 10000.0, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2}
    | {"swa_head_dim": 8, "swa_v_head_dim": 8, "partial_rotary_factor": 0.5}
    | {"moe_layer_freq": [0, 1], "n_shared_experts": None},
    "minicpm": MINICPM | {"tie_word_embeddings": False},
    "minicpm3": MINICPM
    | {
        "rope_scaling": {
            "type": "longrope",
            "original_max_position_embeddings": 128,
            "short_factor": [1.0] * 4,
            "long_factor": [1.0] * 4,
        }
    },
    "minimax": {"rotary_dim": 4},
    "ministral3": BY_TURNS | {"rope_parameters": ROPE | SCALING},
    "mistral3": _within("llama"),  # a model within a model
    "mistral4": {"rope_parameters": ROPE | SCALING},
    "mixtral": {},
    "muse_glimmer": BY_TURNS,
    "nanbeige": {"num_loops": 2},
    "nanochat": {},
    "nemotron": {"hidden_act": "relu2"},
    "nemotron-nas": {"block_configs": [NAS_BLOCK] * 2},
    "nemotron_h": NEMOTRON_H,
    "olmo2": {},
    "olmo3": BY_TURNS,
    "olmo_hybrid": DELTA,
    "olmoe": {},
    "openelm": {"num_transformer_layers": 2, "model_dim": 32, "ffn_dim_divisor": 8}
    | {"num_query_heads": [4, 4], "num_kv_heads": [2, 2], "ffn_multipliers": [1.0, 1.5]},
    "phi": {"num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    "phi3": {},
    "phimoe": {},
    "phixtral": {"num_vocab": VOCAB, "model_dim": 32, "num_heads": 4, "num_layers": 2}
    | {"rotary_dim": 4},
    "pixtral": _within("llama"),
    "plamo": {"n_shared_head": 2},
    "plamo2": HYBRID_MAMBA | {"hidden_size_per_head": 8, "attention_window_size": 256},
    "plamo3": WINDOWED | {"window_size": WINDOW},
    "qwen": {"kv_channels": 8},
    "qwen2": {},
    "qwen2_moe": {},
    "qwen2_vl": _within("qwen2"),
    "qwen3": {"tie_word_embeddings": False},  # a head of its own
    "qwen3_5": _within("qwen3_5", rope_parameters=ROPE, **{**DELTA, "num_experts": 0}),
    "qwen3_5_moe": _within("qwen3_5_moe", rope_parameters=ROPE, **DELTA),
    "qwen3_moe": {},
    "qwen3_next": DELTA,
    "qwen3_vl": _within("qwen3"),
    "qwen3_vl_moe": _within("qwen3_moe", tie_word_embeddings=False),
    "recurrent_gemma": {"conv1d_width": 4, "logits_soft_cap": 30.0}
    | {"attention_window_size": WINDOW, "block_types": ["recurrent", "attention"]}
    | {"_block_types": ["recurrent", "attention"]},
    "rwkv7": {"a_low_rank_dim": 4, "v_low_rank_dim": 4, "gate_low_rank_dim": 4}
    | {"decay_low_rank_dim": 4},
    "seed_oss": {},
    "smollm3": {"no_rope_layer_interval": 2},
    "solar_open": {"partial_rotary_factor": 0.5},
    "spark2_5": BY_TURNS | {"rope_parameters": {t: ROPE for t in BY_TURNS["layer_types"]}},
    "stablelm": {"use_qkv_bias": False, "partial_rotary_factor": 0.5},
    "starcoder2": {},
    "step3p5": BY_TURNS
    | {"num_attention_groups": 2, "moe_layers_enum": "1"}
    | {"share_expert_dim": 32},
    "talkie": {},
    "telechat3": {},
    "youtu_llm": {},
}

# The handful for the ordinary suite: each way to keep a prompt, and which cannot share or mix.
FEW = (
    *("qwen3", "gemma2", "gpt2", "deepseek_v3", "mistral3"),  # keys and values
    *("llama", "gpt_oss", "gemma4_text"),  # windows, sinks, shared keys and values
    *("lfm2", "mamba2", "qwen3_next", "falcon_h1"),  # convolutions and recurrent states
    "llama4",  # chunks, which have a cache of their own
)
SHARING = tuple(make for make in FEW if make != "llama4")
MIXING = tuple(make for make in SHARING if make != "gemma2")

# Families with a causal language model of which none can be made here.
NOT_HERE = {
    "bitnet": "its layers run on Metal only",
    "olmo": "wants the package ai2-olmo",
    "phi3small": "writes to ids of its own vocabulary of 100,352",
    **dict.fromkeys(
        ("deepseek_v41", "kimi_k3", "minimax_m3_vl", "muse_spark", "prism_hadamard_qwen35"),
        "not tried yet: no small configuration was made; at load it is tried like any other",
    ),
}


# What grows with a model's width, in the words of all families.
WIDTHS = {
    *("hidden_size", "hidden_dim", "n_embd", "d_model", "model_dim", "block_dim", "dim_model_base"),
    *("intermediate_size", "n_inner", "ffn_hidden_size", "expert_ffn_hidden_size", "block_ff_dim"),
    *("moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size"),
    *("moe_shared_expert_intermediate_size", "share_expert_dim", "intermediate_size_mlp"),
    *("head_dim", "global_head_dim", "v_head_dim", "qk_nope_head_dim", "kv_channels"),
    *("swa_head_dim", "swa_v_head_dim", "hidden_size_per_head", "q_lora_rank", "kv_lora_rank"),
    *("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_d_ssm"),
    *("mamba_head_dim", "hidden_size_per_layer_input"),
}
VOCABULARIES = {"vocab_size", "num_vocab", "vocab_size_per_layer_input"}


def zoo_config(make, scale=1, vocab=VOCAB):
    """What its config.json would say; `scale` times as wide."""
    made = {**COMMON, "model_type": make, "torch_dtype": "float32", **MAKES[make]}
    return _scaled(made, scale, vocab)


def _scaled(config, scale, vocab):
    grown = {}
    for name, value in config.items():
        if isinstance(value, dict):
            grown[name] = _scaled(value, scale, vocab)
        elif name in VOCABULARIES:
            grown[name] = vocab
        elif name in WIDTHS and isinstance(value, list):
            grown[name] = [scale * width for width in value]
        else:
            grown[name] = scale * value if name in WIDTHS and value else value
    return grown


def zoo_model(make, seed=0, scale=1, vocab=VOCAB):
    """A model of that make with random weights, with the arithmetic that `load_policy` installs.

    From here on MLX compiles nothing in this process: on a CPU each of mlx-lm's small compiled
    functions would call a C++ compiler for seconds.
    """
    mx.disable_compile()
    gated_delta.install()
    module = importlib.import_module(f"mlx_lm.models.{make}")
    args = module.ModelArgs.from_dict(zoo_config(make, scale, vocab))
    model = module.Model(args)
    call_constructor(model)
    draw = np.random.default_rng(seed)
    for name, value in tree_flatten(model.parameters()):
        if value.ndim >= 2:
            noise = mx.array(draw.normal(0, 0.2 / scale**0.5, value.shape), mx.float32)
            model.load_weights([(name, noise)], strict=False)
    model.eval()
    return model


def zoo_folder(make, folder, seed=0, scale=1, vocab=512):
    """The same as a model folder, with the tokenizer of the built-in model."""
    folder.mkdir()
    for file in tiny.model_path().glob("tokenizer*"):
        shutil.copyfile(file, folder / file.name)
    (folder / "config.json").write_text(json.dumps(zoo_config(make, scale, vocab)))
    weights = dict(tree_flatten(zoo_model(make, seed, scale, vocab).parameters()))
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    return folder


def zoo_policy(make, seed=0, scale=1, vocab=VOCAB):
    """A model of that make with random weights, all of them trained."""
    model = zoo_model(make, seed, scale, vocab)
    split = SplitModel(model)
    split.check(mx.arange(4)[None])
    can = abilities(split, vocab)
    return Policy(
        model=model,
        tokenizer=Letters(),
        eos_ids=frozenset({EOS}),
        train_type="full",
        base=make,
        base_path=Path(make),
        base_bits=0,
        held_as="float32",
        quantized_here=False,
        adapter=None,
        config=zoo_config(make, scale, vocab),
        vocab_size=vocab,
        split=split,
        can_share_prefix=can.share_prefix,
        reference_weights=None,
        starts_trained=True,
        can_mix_lengths=can.mix_lengths,
    )
