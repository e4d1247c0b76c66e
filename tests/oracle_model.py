"""A small Qwen2 in numpy: log-probs of a completion, for the oracle's finite differences.

Written from the Qwen2 and LoRA papers (arXiv 2407.10671, 2106.09685): one sequence at a time, no
cache, no padding, float64. Weights go by mlx-lm's names; nothing else is shared with the trainer.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Shape:
    """What the weights alone do not tell."""

    layers: int
    heads: int
    kv_heads: int
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    lora_scale: float = 0.0


def token_logps(
    weights: Mapping[str, Array],
    shape: Shape,
    prompt: list[int],
    completion: list[int],
    temperature: float,
) -> tuple[Array, Array]:
    """Log-probs [T] of a completion's T tokens after its prompt, and the entropies [T] there."""
    logits = forward(weights, shape, prompt + completion[:-1])[len(prompt) - 1 :]
    return of_tokens(logits, completion, temperature)


def of_tokens(logits: Array, tokens: list[int], temperature: float) -> tuple[Array, Array]:
    """Log-probs [T] of tokens under softmax(logits [T, V] / temperature), and entropies [T]."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=-1, keepdims=True)
    logps = scaled - np.log(np.exp(scaled).sum(axis=-1, keepdims=True))
    chosen = np.array([logps[t, token] for t, token in enumerate(tokens)])
    return chosen, -(np.exp(logps) * logps).sum(axis=-1)


def forward(weights: Mapping[str, Array], shape: Shape, ids: list[int]) -> Array:
    """Logits [len(ids), vocabulary]."""
    return finish(weights, shape, *start(weights, shape, ids))


def start(weights: Mapping[str, Array], shape: Shape, ids: list[int]) -> tuple[Array, Array]:
    """All but the model's last product and head: the residual, and what goes into `down_proj`."""
    x = weights["model.embed_tokens.weight"][ids]
    inner = np.zeros(0)
    for n in range(shape.layers):
        name = f"model.layers.{n}"
        if n:
            x = x + _linear(weights, shape, f"model.layers.{n - 1}.mlp.down_proj", inner)
        normed = _rms_norm(x, weights[f"{name}.input_layernorm.weight"], shape)
        x = x + _attention(weights, shape, f"{name}.self_attn", normed)
        normed = _rms_norm(x, weights[f"{name}.post_attention_layernorm.weight"], shape)
        inner = _gated(weights, shape, f"{name}.mlp", normed)
    return x, inner


def finish(weights: Mapping[str, Array], shape: Shape, x: Array, inner: Array) -> Array:
    """The rest, for any of the positions of `start`; the head is the embedding (tied)."""
    x = x + _linear(weights, shape, f"model.layers.{shape.layers - 1}.mlp.down_proj", inner)
    return (
        _rms_norm(x, weights["model.norm.weight"], shape) @ weights["model.embed_tokens.weight"].T
    )


def _rms_norm(x: Array, weight: Array, shape: Shape) -> Array:
    return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + shape.norm_eps) * weight


def _linear(weights: Mapping[str, Array], shape: Shape, name: str, x: Array) -> Array:
    """x W' + b, plus scale * x A B where there is an adapter (mlx-lm's A [in, r], B [r, out]).

    DoRA (arXiv 2402.09353, eq. 5): both times m / |W + scale (A B)'|, before the bias.
    """
    adapted = f"{name}.lora_a" in weights
    base = f"{name}.linear" if adapted else name
    y = x @ weights[f"{base}.weight"].T
    if adapted:
        y = y + shape.lora_scale * (x @ weights[f"{name}.lora_a"] @ weights[f"{name}.lora_b"])
    if f"{name}.m" in weights:
        y = y * weights[f"{name}.m"] / weights[f"{name}.norm"]
    return y + weights.get(f"{base}.bias", 0.0)


def with_dora_norms(weights: dict[str, Array], shape: Shape) -> dict[str, Array]:
    """The same weights and the norms that DoRA divides by, as `NAME.norm`.

    They are kept apart because a gradient takes them for constants (DoRA, section 4.3).
    """
    result = dict(weights)
    for name in [key.removesuffix(".m") for key in weights if key.endswith(".m")]:
        change = weights[f"{name}.lora_a"] @ weights[f"{name}.lora_b"]
        whole = weights[f"{name}.linear.weight"] + shape.lora_scale * change.T
        result[f"{name}.norm"] = np.sqrt((whole * whole).sum(axis=1))
    return result


def _attention(weights: Mapping[str, Array], shape: Shape, name: str, x: Array) -> Array:
    length = len(x)
    query = _linear(weights, shape, f"{name}.q_proj", x).reshape(length, shape.heads, -1)
    key = _linear(weights, shape, f"{name}.k_proj", x).reshape(length, shape.kv_heads, -1)
    value = _linear(weights, shape, f"{name}.v_proj", x).reshape(length, shape.kv_heads, -1)
    query, key = _rotate(query, shape), _rotate(key, shape)
    group = shape.heads // shape.kv_heads
    mixed = [
        _head(query[:, h], key[:, h // group], value[:, h // group]) for h in range(shape.heads)
    ]
    return _linear(weights, shape, f"{name}.o_proj", np.concatenate(mixed, axis=-1))


def _head(query: Array, key: Array, value: Array) -> Array:
    """One head's causal attention; all [T, D]."""
    scores = query @ key.T / np.sqrt(query.shape[-1])
    scores = np.where(np.tri(len(query), dtype=bool), scores, -np.inf)
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores / scores.sum(axis=-1, keepdims=True) @ value


def _rotate(x: Array, shape: Shape) -> Array:
    """Rotary positions on [T, H, D]; the two halves of D are the pairs, as in Qwen2."""
    half = x.shape[-1] // 2
    rates = shape.rope_theta ** (-np.arange(half) / half)
    angles = np.arange(len(x))[:, None, None] * rates
    first, second = x[..., :half], x[..., half:]
    return np.concatenate(
        [
            first * np.cos(angles) - second * np.sin(angles),
            first * np.sin(angles) + second * np.cos(angles),
        ],
        axis=-1,
    )


def _gated(weights: Mapping[str, Array], shape: Shape, name: str, x: Array) -> Array:
    """SwiGLU without its last product."""
    gate = _linear(weights, shape, f"{name}.gate_proj", x)
    return gate / (1 + np.exp(-gate)) * _linear(weights, shape, f"{name}.up_proj", x)
