"""What a run will take of the device's memory, part by part, before anything is loaded.

Sizes of weights are exact, from the model's own module tree with nothing evaluated. What a pass
needs is a sum of terms whose factors were fitted to MLX 0.32.4's measured peaks on the CPU.
On a GPU attention is fused where no gradient is taken, so that rollout and evaluation take less.
"""

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, make_prompt_cache
from mlx_lm.utils import _get_classes

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import gated_delta
from grpo_core.model.adapters import add_adapters, replace_modules
from grpo_core.model.base_model import (
    BASE_BITS,
    GROUP_SIZE,
    bits_of,
    call_constructor,
    quantize_base,
)
from grpo_core.model.decode_cache import ROOM, parts_of
from grpo_core.model.load_probe import FAULTS
from grpo_core.model.precision import cast, made_quantized, precision
from grpo_core.model.shared_prefix import can_fork, prefill_tokens
from grpo_core.rollout.generate import LOOK_EVERY, MAX_ROWS

FP32 = 4

# Copies of what a token is to each linear layer (its output) that are kept for the backward pass:
# with adapters, whose own passes read it again, and without.
PER_OUTPUT, PER_OUTPUT_FULL = 3.7, 2.6
# Of the residual stream, in each layer.
PER_HIDDEN = 3.0
PER_SCORE = 1.34
# Of a recurrent layer's states: one for each chunk of tokens (gated delta), or for each token.
PER_STATE = 1.7
# Of what a token of an ssm layer, and of a chunk in a gated delta layer, is to the others.
PER_SSM, PER_CHANNEL = 6.0, 4.0
# Where a loop takes each token out of an array by its index (Jamba), the gradient by the array is
# made for each token; of several arrays.
PER_LOOP = 14.0
# Tokens of an ssm layer (Mamba 2) that see each other as in attention.
SSM_TOKENS = 256
# Copies of logits in the update where one chunk holds them all; else one copy of all of them, and
# several of the chunk.
PER_LOGIT = 3.5
PER_CHUNK, PER_CHUNK_MOST = (8.0, 3.5)
# In sampling, of each step between two looks of the host: a GPU may have them all in flight (a CPU,
# where one step ends before the next begins, takes 7 in all).
PER_SAMPLED_LOGIT = 3.0
# Of the keys and values: layer by layer they move, and a GPU may be some layers behind.
PER_ROOM = 0.25
# Of the layer that a prompt's tokens are in: its outputs, and what is made of them.
PER_RUN = 2.0
# Of recurrent states: the old, the new, and what lies between.
PER_KEPT_STATE = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that memory depends on."""

    layers: int
    hidden: int
    outputs: int
    """Width of all linear layers' outputs for one token, as often as it passes them."""
    heads: int
    """Attention heads of all layers."""
    ssm_heads: int
    """Heads of all layers in which a token sees the last 256, as in Mamba 2."""
    states: float
    """Numbers in the states that a token leaves for the backward pass, all layers."""
    channels: int
    """Numbers that a token of a chunk (gated delta) leaves beside its states, all layers."""
    looped: int
    """Width of what a loop over tokens takes apart by index, all layers."""
    kept: int
    """Bytes that a token leaves in the caches of all layers while it is decoded."""
    kept_always: int
    """Bytes of a row's recurrent states, all layers."""
    vocab: int
    dtype_bytes: int
    weights_bytes: int
    trainable_bytes: int
    trainable_count: int
    can_share_prefix: bool
    """As far as its caches show; the loaded model is tried."""


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the peak: what it is, and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What stays, and the largest of the three phases on top of it."""

    standing: list[Part]
    rollout: list[Part]
    update: list[Part]
    evaluation: list[Part]
    """Empty where the run never evaluates."""

    @property
    def phase(self) -> str:
        """Which phase the peak is in."""
        return max(self._phases, key=self._phases.__getitem__)

    @property
    def peak_bytes(self) -> int:
        """The most that is in use at once."""
        return _total(self.standing) + max(self._phases.values())

    @property
    def _phases(self) -> dict[str, int]:
        return {
            "update": _total(self.update),
            "rollout": _total(self.rollout),
            "evaluation": _total(self.evaluation),
        }


def _total(parts: list[Part]) -> int:
    return sum(part.bytes for part in parts)


def model_shape(config: Mapping[str, Any], cfg: MLXGRPOConfig) -> Shape:
    """The model of that config.json with what the run puts into it; ModelError if unknown."""
    try:
        model = _skeleton(dict(config), cfg)
        return _shape(model, config, precision(config, cfg).dtype)
    except FAULTS as error:
        raise ModelError(
            f"{cfg.model_name}: its memory cannot be estimated from config.json: {error!r}"
        ) from None


def _shape(model: nn.Module, config: Mapping[str, Any], dtype: mx.Dtype) -> Shape:
    caches = make_prompt_cache(model)
    logits = model(mx.zeros((1, PROBE_TOKENS), mx.int32), cache=caches)  # never evaluated
    parts = parts_of(caches)
    plain = [part for part in parts if not isinstance(part, ArraysCache)]
    states = [part for part in parts if isinstance(part, ArraysCache)]
    recurrent = sum(all(isinstance(p, ArraysCache) for p in parts_of([cache])) for cache in caches)
    heads = int(_setting(config, _HEADS, 1))
    passes = int(_setting(config, _PASSES, 1))
    source = sys.modules[type(model.layers[0]).__module__]
    by_channel = any(hasattr(source, name) for name in _BY_CHANNEL)
    is_ssm, is_chunked = hasattr(source, "ssm_update"), hasattr(source, "gated_delta_update")
    largest = [max((a.size for a in _held(part)), default=0) for part in states]
    return Shape(
        layers=len(model.layers),
        hidden=_hidden(model),
        outputs=passes * _outputs(model, int(_setting(config, _EXPERTS_A_TOKEN, 1))),
        heads=passes * heads * (len(model.layers) - recurrent),
        ssm_heads=sum(_state_heads(part) for part in states) if is_ssm else 0,
        states=0 if is_ssm else sum(largest) / (gated_delta.CHUNK if is_chunked else 1),
        channels=sum(_channels(part, by_channel) for part in states) if is_chunked else 0,
        looped=sum(_looped(part) for part in states) if hasattr(source, _BY_INDEX) else 0,
        kept=sum(_a_token(part) for part in plain),
        kept_always=sum(a.nbytes for part in states for a in _held(part)),
        vocab=int(logits.shape[-1]),
        dtype_bytes=dtype.size,
        weights_bytes=_bytes(model.parameters()),
        trainable_bytes=_bytes(model.trainable_parameters()),
        trainable_count=sum(a.size for _, a in _leaves(model.trainable_parameters())),
        can_share_prefix=can_fork(model),
    )


# How config.json spells it, family by family.
_HEADS = ("num_attention_heads", "n_heads", "n_head", "num_heads", "num_query_heads")
_EXPERTS_A_TOKEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
)

# How often the blocks run, one after the other.
_PASSES = ("loop_num", "num_loops")

# What a module of mlx-lm defines where its gated delta layers have a gate for each channel.
_BY_CHANNEL = ("KimiDeltaAttention", "BailingKDA", "KimiK3DeltaAttention")
# And where a loop takes tokens by their index.
_BY_INDEX = "JambaMambaMixer"

# Tokens of the pass that shows the shapes of caches.
PROBE_TOKENS = 8


def _setting(config: Mapping[str, Any], names: tuple[str, ...], default: Any) -> Any:
    """The first of these that config.json or a part of it has; of a list, the largest."""
    nested = [value for value in config.values() if isinstance(value, Mapping)]
    for part in [*nested, config]:
        for name in names:
            value = part.get(name)
            if value:
                return max(value) if isinstance(value, list) else value
    return default


def _held(cache: Any) -> list[mx.array]:
    return [
        array for _, array in _leaves(list(vars(cache).values())) if isinstance(array, mx.array)
    ]


def _a_token(cache: Any) -> int:
    """Bytes of one token's keys and values."""
    arrays = [array for array in (cache.keys, cache.values) if isinstance(array, mx.array)]
    return sum(array.nbytes // array.shape[2] for array in arrays)


def _state_heads(cache: Any) -> int:
    """Of a state [1, heads, D, N]; a convolution's has three axes."""
    return max((array.shape[1] for array in _held(cache) if array.ndim == 4), default=0)


def _channels(cache: Any, by_channel: bool) -> int:
    """What a token and head of a gated delta layer is to the others of its chunk, all heads.

    Of a state [1, heads, E, D]: a number for each token of the chunk, its keys and values; or a
    number for each token and channel.
    """
    sizes = [
        a.shape[1]
        * (
            gated_delta.CHUNK_BY_CHANNEL * a.shape[3]
            if by_channel
            else gated_delta.CHUNK + a.shape[2] + a.shape[3]
        )
        for a in _held(cache)
        if a.ndim == 4
    ]
    return max(sizes, default=0)


def _looped(cache: Any) -> int:
    """The width of a state [1, width, N] beside that of a convolution."""
    held = [array for array in _held(cache) if array.ndim == 3]
    return int(held[-1].shape[1]) if len(held) > 1 else 0


def _hidden(model: nn.Module) -> int:
    """The width of the residual stream, as the embedding of tokens has it."""
    for _, module in model.named_modules():
        if isinstance(module, nn.QuantizedEmbedding):
            return int(module.scales.shape[-1] * module.group_size)
        if isinstance(module, nn.Embedding):
            return int(module.weight.shape[-1])
    return 0


def _outputs(model: nn.Module, experts_a_token: int) -> int:
    """The width of all linear layers in the blocks, the experts' as often as a token takes one."""
    modules = [module for layer in model.layers for _, module in layer.named_modules()]
    linears = [m for m in modules if isinstance(m.get("weight"), mx.array) and m.weight.ndim >= 2]

    def width(module: nn.Module) -> float:
        if module.weight.ndim < 3:
            return int(module.weight.shape[0])
        # What an expert takes in is copied too, as tokens are sorted by expert.
        taken: int = module.weight.shape[2]
        if "scales" in module:
            taken = module.scales.shape[-1] * module.group_size
        return experts_a_token * (int(module.weight.shape[1]) + taken / 2)

    return round(sum(map(width, linears)))


def _skeleton(config: dict[str, Any], cfg: MLXGRPOConfig) -> nn.Module:
    """The model with its adapters; arrays have shape and type, and are never evaluated."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    call_constructor(model)
    held = precision(config, cfg)
    cast(model, held.dtype)
    if made := made_quantized(config):
        quantize_base(model, int(made.get("group_size", GROUP_SIZE)), bits_of(config))
    elif held.quantize:
        embeddings = quantize_base(model, GROUP_SIZE, BASE_BITS)
        try:
            model(mx.zeros((1, 2), mx.int32))
        except FAULTS:
            replace_modules(model, embeddings)
    if cfg.train_type != "full":
        model.freeze()
        add_adapters(model, cfg)
    return model


def _leaves(tree: Any) -> list[tuple[str, mx.array]]:
    leaves: Any = tree_flatten(tree)
    return list(leaves)


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for _, array in _leaves(tree))


def estimate(
    shape: Shape,
    cfg: MLXGRPOConfig,
    prompt_tokens: int,
    *,
    rollout_rows: int = MAX_ROWS,
    eval_rows: int = MAX_ROWS,
) -> Estimate:
    """The peak of a run on prompts of that length (the longest counts).

    At most so many rows decode together in a rollout and in an evaluation.
    """
    return Estimate(
        standing=_standing(shape, cfg),
        rollout=_rollout(shape, cfg, prompt_tokens, rollout_rows),
        update=_update(shape, cfg, prompt_tokens),
        evaluation=_evaluation(shape, cfg, prompt_tokens, eval_rows),
    )


def _standing(shape: Shape, cfg: MLXGRPOConfig) -> list[Part]:
    count = shape.trainable_count
    parts = [
        Part("weights", shape.weights_bytes),
        Part("Adam's moments, fp32", 2 * FP32 * count),
    ]
    if shape.trainable_bytes < FP32 * count:
        parts.append(Part("masters of the trained weights, fp32", FP32 * count))
    if cfg.kl_coeff > 0 and (cfg.train_type == "full" or cfg.sync_ref_model):
        parts.append(Part("reference: weights of its own", shape.trainable_bytes))
    return parts


def _rollout(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int, most: int) -> list[Part]:
    prompts = cfg.batch_size * cfg.gradient_accumulation_steps * cfg.updates_per_generation
    size, early = cfg.num_generations, cfg.early_group_size
    limit = cfg.completion_limit
    # Of smaller parts more may fit in, so that the larger part need not be the one that counts.
    draws = [
        _decoding(shape, prompts, n, most, prompt_tokens, limit)
        for n in ((early, size - early) if early else (size,))
    ]
    return max(draws, key=_total)


def _evaluation(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int, most: int) -> list[Part]:
    sizes = ((cfg.eval_samples, cfg.eval_steps), (cfg.eval_subset_size, cfg.eval_every_updates))
    prompts = max((n for n, every in sizes if every), default=0)
    if not prompts:
        return []
    n, limit = cfg.eval_num_generations, cfg.eval_max_new_tokens
    return _decoding(shape, prompts, n, most, prompt_tokens, limit)


def _together(prompts: int, n: int, most: int) -> int:
    """How many rows decode together, of so many prompts with `n` completions each."""
    return min(most, n * max(1, min(prompts, most // n)))


def _decoding(
    shape: Shape, prompts: int, n: int, most: int, prompt_tokens: int, limit: int
) -> list[Part]:
    """Of so many prompts with `n` completions each, at most so many rows at once.

    Prompts that wait come in as rows end: they run beside what is under way, and get room anew.
    """
    rows = _together(prompts, n, most)
    waits = rows < prompts * n
    room = ROOM * (math.ceil(limit / ROOM) + waits)
    kept = rows * (prompt_tokens + room) * shape.kept + PER_KEPT_STATE * rows * shape.kept_always
    logits = PER_SAMPLED_LOGIT * LOOK_EVERY * rows * shape.vocab * FP32
    parts = [
        Part(f"keys and values of {rows} completions", kept),
        Part("old places of those that get more room", round(PER_ROOM * kept)),
        Part("logits", round(logits)),
    ]
    if waits:
        tokens = max(prompt_tokens, min(prefill_tokens(), rows // n * prompt_tokens))
        a_token = PER_RUN * shape.outputs / shape.layers * shape.dtype_bytes
        parts.append(Part("prompts that come in meanwhile", round(tokens * a_token)))
    return parts


def _update(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int) -> list[Part]:
    limit = cfg.completion_limit
    rows = min(cfg.micro_batch_size or cfg.num_generations, cfg.num_generations)
    tokens, chunk = rows * limit, cfg.logprob_chunk_tokens or 512
    logits = PER_LOGIT * tokens
    if chunk < tokens:
        logits = tokens + min(PER_CHUNK * chunk, PER_CHUNK_MOST * tokens)
    activations = max(
        _kept(shape, cfg, rows, prompt_tokens, limit, part) for part in _graphs(cfg, rows)
    )
    if cfg.grad_checkpoint == "on":
        between = shape.layers * (tokens + prompt_tokens) * shape.hidden * shape.dtype_bytes
        activations = activations / shape.layers + between
    return [
        Part(f"activations of {rows} completions", round(activations)),
        Part(
            f"logits of {tokens} tokens, {min(chunk, tokens)} at once",
            round(logits * shape.vocab * FP32),
        ),
        Part("gradients, fp32, and their sum", 2 * FP32 * shape.trainable_count),
    ]


def _graphs(cfg: MLXGRPOConfig, rows: int) -> tuple[str, ...]:
    """Which graphs an update differentiates: a group cut in parts has its prompt apart."""
    if not cfg.prefix_sharing:
        return ("plain",)
    return ("whole",) if rows == cfg.num_generations else ("rows", "prompt")


def _kept(
    shape: Shape, cfg: MLXGRPOConfig, rows: int, prompt: int, limit: int, graph: str
) -> float:
    """Bytes that all layers keep for their backward pass."""
    own, first = rows * limit, prompt
    scores = rows * limit * (prompt + limit) + prompt * prompt
    if graph == "plain":
        own, first, scores = rows * (prompt + limit), 0, rows * (prompt + limit) ** 2
    elif graph == "rows":
        first, scores = 0, rows * limit * (prompt + limit)
    elif graph == "prompt":
        own, scores = 0, prompt * prompt
    per_output = PER_OUTPUT_FULL if cfg.train_type == "full" else PER_OUTPUT
    a_token = per_output * shape.outputs + PER_HIDDEN * shape.hidden * shape.layers
    a_token += PER_STATE * shape.states + PER_CHANNEL * shape.channels
    a_token += PER_SSM * shape.ssm_heads * min(SSM_TOKENS, prompt + limit)
    a_token += PER_LOOP * shape.looped * (prompt + limit)
    floats = (own + first) * a_token + PER_SCORE * shape.heads * scores
    return floats * shape.dtype_bytes
