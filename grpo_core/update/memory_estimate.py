"""What a run will take of the device's memory, part by part, before anything is loaded.

Sizes of weights are exact, from the model's own module tree with nothing evaluated. What a pass
needs is a sum of terms whose factors were fitted to MLX 0.32.4's measured peaks on the CPU;
attention that is fused on a GPU takes less.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import _get_classes

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model.adapters import add_adapters
from grpo_core.model.base_model import BASE_BITS, GROUP_SIZE, quantize_base
from grpo_core.model.shared_prefix import ROOM
from grpo_core.rollout.generate import LOOK_EVERY, MAX_ROWS

FP32 = 4

# Copies of a token's activations that a layer keeps for its backward pass.
PER_HIDDEN, PER_KV, PER_INNER = (12.0, 8.0, 6.3)
PER_HIDDEN_FULL, PER_KV_FULL, PER_INNER_FULL = (7.0, 4.0, 4.0)
PER_SCORE = 1.34
# Copies of logits in the update where one chunk holds them all; else one copy of all of them, and
# several of the chunk.
PER_LOGIT = 3.5
PER_CHUNK, PER_CHUNK_MOST = (8.0, 3.5)
# In sampling, of each step between two looks of the host: a GPU may have them all in flight (a CPU,
# where one step ends before the next begins, takes 7 in all).
PER_SAMPLED_LOGIT = 3.0
# Of the keys and values: layer by layer they move, and a GPU may be some layers behind.
PER_ROOM = 0.25


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model that memory depends on."""

    layers: int
    hidden: int
    inner: int
    heads: int
    kv: int
    """Width of the keys of one token and layer: heads times head size."""
    vocab: int
    dtype_bytes: int
    weights_bytes: int
    trainable_bytes: int
    trainable_count: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the peak: what it is, and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Estimate:
    """What stays, and the larger of the two phases on top of it."""

    standing: list[Part]
    rollout: list[Part]
    update: list[Part]

    @property
    def phase(self) -> str:
        """Which phase the peak is in."""
        return "update" if _total(self.update) >= _total(self.rollout) else "rollout"

    @property
    def peak_bytes(self) -> int:
        """The most that is in use at once."""
        return _total(self.standing) + max(_total(self.rollout), _total(self.update))


def _total(parts: list[Part]) -> int:
    return sum(part.bytes for part in parts)


def model_shape(config: Mapping[str, Any], cfg: MLXGRPOConfig) -> Shape:
    """The model of that config.json with what the run puts into it; ModelError if unknown."""
    text = {**config, **config.get("text_config", {})}
    try:
        model = _skeleton(dict(config), cfg)
        heads = int(text["num_attention_heads"])
        hidden = int(text["hidden_size"])
        head_size = int(text.get("head_dim") or hidden // heads)
        shape = Shape(
            layers=int(text["num_hidden_layers"]),
            hidden=hidden,
            inner=int(text["intermediate_size"]),
            heads=heads,
            kv=int(text.get("num_key_value_heads") or heads) * head_size,
            vocab=int(text["vocab_size"]),
            dtype_bytes=_dtype(text).size,
            weights_bytes=_bytes(model.parameters()),
            trainable_bytes=_bytes(model.trainable_parameters()),
            trainable_count=sum(a.size for _, a in _leaves(model.trainable_parameters())),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(
            f"{cfg.model_name}: its memory cannot be estimated from config.json: {error!r}"
        ) from None
    return shape


def _skeleton(config: dict[str, Any], cfg: MLXGRPOConfig) -> nn.Module:
    """The model with its adapters; arrays have shape and type, and are never evaluated."""
    model_class, args_class = _get_classes(config)
    model = model_class(args_class.from_dict(config))
    model.set_dtype(_dtype({**config, **config.get("text_config", {})}))
    made = config.get("quantization") or config.get("quantization_config")
    if made:
        quantize_base(model, int(made.get("group_size", GROUP_SIZE)), int(made.get("bits", 4)))
    elif cfg.quantize_for_rollouts and cfg.train_type != "full":
        quantize_base(model, GROUP_SIZE, BASE_BITS)
    if cfg.train_type != "full":
        model.freeze()
        add_adapters(model, cfg)
    return model


def _dtype(config: Mapping[str, Any]) -> mx.Dtype:
    name = config.get("torch_dtype") or config.get("dtype") or "bfloat16"
    known = {"float32": mx.float32, "float16": mx.float16}
    return known.get(str(name), mx.bfloat16)


def _leaves(tree: Any) -> list[tuple[str, mx.array]]:
    leaves: Any = tree_flatten(tree)
    return list(leaves)


def _bytes(tree: Any) -> int:
    return sum(array.nbytes for _, array in _leaves(tree))


def estimate(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int) -> Estimate:
    """The peak of an update on prompts of that length (the longest counts)."""
    return Estimate(
        standing=_standing(shape, cfg),
        rollout=_rollout(shape, cfg, prompt_tokens),
        update=_update(shape, cfg, prompt_tokens),
    )


def _standing(shape: Shape, cfg: MLXGRPOConfig) -> list[Part]:
    count = shape.trainable_count
    parts = [
        Part("weights", shape.weights_bytes),
        Part("Adam's moments, fp32", 2 * FP32 * count),
    ]
    if shape.trainable_bytes < FP32 * count:
        parts.append(Part("masters of the trained weights, fp32", FP32 * count))
    if cfg.train_type == "full" and cfg.kl_coeff > 0:
        parts.append(Part("reference: the first weights", shape.trainable_bytes))
    return parts


def _rollout(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int) -> list[Part]:
    prompts = cfg.batch_size * cfg.gradient_accumulation_steps
    together = max(1, min(prompts, MAX_ROWS // cfg.num_generations))
    rows = together * cfg.num_generations
    limit = cfg.completion_limit
    places = rows * (prompt_tokens + ROOM * math.ceil(limit / ROOM))
    kept = places * 2 * shape.kv * shape.layers * shape.dtype_bytes
    logits = PER_SAMPLED_LOGIT * LOOK_EVERY * rows * shape.vocab * FP32
    return [
        Part(f"keys and values of {rows} completions", kept),
        Part("old places of those that get more room", round(PER_ROOM * kept)),
        Part("logits", round(logits)),
    ]


def _update(shape: Shape, cfg: MLXGRPOConfig, prompt_tokens: int) -> list[Part]:
    limit = cfg.completion_limit
    rows = min(cfg.micro_batch_size or cfg.num_generations, cfg.num_generations)
    tokens, chunk = rows * limit, cfg.logprob_chunk_tokens or 512
    logits = PER_LOGIT * tokens
    if chunk < tokens:
        logits = tokens + min(PER_CHUNK * chunk, PER_CHUNK_MOST * tokens)
    layers = shape.layers if cfg.grad_checkpoint != "on" else 1
    activations = layers * max(
        _layer(shape, cfg, rows, prompt_tokens, limit, part) for part in _graphs(cfg, rows)
    )
    if layers < shape.layers:
        activations += shape.layers * (tokens + prompt_tokens) * shape.hidden * shape.dtype_bytes
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


def _layer(
    shape: Shape, cfg: MLXGRPOConfig, rows: int, prompt: int, limit: int, graph: str
) -> float:
    """Bytes that one layer keeps for its backward pass."""
    own, first = rows * limit, prompt
    scores = rows * limit * (prompt + limit) + prompt * prompt
    if graph == "plain":
        own, first, scores = rows * (prompt + limit), 0, rows * (prompt + limit) ** 2
    elif graph == "rows":
        first, scores = 0, rows * limit * (prompt + limit)
    elif graph == "prompt":
        own, scores = 0, prompt * prompt
    full = cfg.train_type == "full"
    hidden, kv, inner = (
        (PER_HIDDEN_FULL, PER_KV_FULL, PER_INNER_FULL) if full else (PER_HIDDEN, PER_KV, PER_INNER)
    )
    a_token = hidden * shape.hidden + kv * shape.kv + inner * shape.inner
    floats = (own + first) * a_token + PER_SCORE * shape.heads * scores
    return floats * shape.dtype_bytes
