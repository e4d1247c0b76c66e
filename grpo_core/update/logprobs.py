"""Log-probs and entropies of given tokens, with gradients, in chunks of the vocabulary head.

The head is the memory hog: T x V logits in fp32. So it sees completion positions only, and beyond
one chunk neither logits nor softmax outlive their chunk: the backward pass computes them again
(the idea of Liger's and Unsloth's fused losses, by `mx.custom_function`). The hidden states come
from `group_passes.py`, by way of `trunk_head.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from grpo_core.model.cpu import exp, has_slow_exp
from grpo_core.model.trunk_head import Params, SplitModel

Pair = tuple[mx.array, mx.array]
"""Log-probs [N] and entropies [N]."""
Kernel = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Head:
    """How positions pass the vocabulary head."""

    temperature: float
    chunk: int  # positions at once
    entropy_gradient: bool = False  # whether entropies carry one
    compiled: bool = False


def token_stats(split: SplitModel, hidden: mx.array, ids: mx.array, how: Head) -> Pair:
    """`hidden` [N, D] and the tokens that follow, `ids` [N] -> log-probs [N], entropies [N].

    Both in nats and fp32, of softmax(logits / temperature) over the whole vocabulary.
    """
    if hidden.shape[0] <= how.chunk:
        return _stats(split.head(hidden), ids, how)
    return _chunked(split, hidden, ids, how)


def _stats(logits: mx.array, ids: mx.array, how: Head) -> Pair:
    """`logits` [N, V] and tokens [N] -> log-probs and entropies, with a lean backward pass.

    Left to autograd, three more N x V arrays would be alive at once.
    """
    # Where an exponential costs more than the memory of what came of it: half as many of them.
    keeps_odds = has_slow_exp() and not how.entropy_gradient
    forward, slope = _kernels(how.temperature, how.entropy_gradient, how.compiled, keeps_odds)

    @mx.custom_function
    def stats(logits: mx.array) -> Any:
        return forward(logits, ids)

    @stats.vjp
    def backward(logits: mx.array, cotangents: Any, outputs: Any) -> Any:
        if keeps_odds:
            by_logits = _slope_by_odds(ids, cotangents[0] / how.temperature, *outputs[2:])
            return by_logits.astype(logits.dtype)
        return slope(logits, ids, *cotangents[:2], *outputs[1:])

    found: Any = stats(logits)
    return found[0], found[1]


@cache
def _kernels(
    temperature: float, entropy_gradient: bool, compiled: bool, keeps_odds: bool
) -> tuple[Kernel, Kernel]:
    """Log-prob, entropy and log-sum-exp of each row; and the gradient of the first two.

    With p = softmax(z) and z = logits / temperature: d log p_i / dz = onehot_i - p, and
    d H / dz = -p (log p + H). With `keeps_odds` there are e^(z - max z) and their sum instead of
    the log-sum-exp.
    """

    def forward(logits: mx.array, ids: mx.array) -> list[mx.array]:
        logits = logits.astype(mx.float32)
        top = logits.max(axis=-1, keepdims=True)
        below = logits - top
        # Of what lies below the top, not of logits, which may be large; one serves sum and entropy.
        odds = exp(below, 1 / temperature)
        total = odds.sum(axis=-1)
        log_total = mx.log(total)
        chosen = mx.take_along_axis(below, ids[:, None], axis=-1).squeeze(-1)
        entropy = log_total - (odds * below).sum(axis=-1) / (total * temperature)
        kept = [odds, total] if keeps_odds else [top.squeeze(-1) / temperature + log_total]
        return [chosen / temperature - log_total, entropy, *kept]

    def slope(
        logits: mx.array,
        ids: mx.array,
        pull: mx.array,
        entropy_pull: mx.array,
        entropy: mx.array,
        norm: mx.array,
    ) -> mx.array:
        logp = _over(logits, temperature) - norm[:, None]
        by_z = -pull[:, None]
        if entropy_gradient:
            by_z = by_z - entropy_pull[:, None] * (logp + entropy[:, None])
        by_z = exp(logp) * by_z
        by_z = by_z.at[mx.arange(ids.shape[0]), ids].add(pull)
        return (by_z / temperature if temperature != 1 else by_z).astype(logits.dtype)

    if not compiled:
        return forward, slope
    return mx.compile(forward), mx.compile(slope)


def _slope_by_odds(ids: mx.array, pull: mx.array, odds: mx.array, total: mx.array) -> mx.array:
    """The gradient of log-probs by logits; `pull` is that by log-probs over the temperature."""
    return (odds * -(pull / total)[:, None]).at[mx.arange(ids.shape[0]), ids].add(pull)


def _over(logits: mx.array, temperature: float) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits if temperature == 1 else logits / temperature


def _chunked(split: SplitModel, hidden: mx.array, ids: mx.array, how: Head) -> Pair:
    """The same as `_stats` on all positions, with few chunks' logits alive at a time."""
    weights = split.head_parameters()
    chunk = how.chunk
    starts = range(0, hidden.shape[0], chunk)

    def one(start: int, piece: mx.array, weights: Params) -> Pair:
        split.model.update(tree_unflatten(list(weights.items())))
        return _stats(split.head(piece), ids[start : start + chunk], how)

    @mx.custom_function
    def stats(hidden: mx.array, weights: Params) -> Pair:
        parts: list[Pair] = []
        for start in starts:
            piece = hidden[start : start + chunk]
            if parts:
                piece = mx.depends(piece, list(parts[-1]))  # one chunk after the other
            parts.append(one(start, piece, weights))
        return mx.concatenate([p[0] for p in parts]), mx.concatenate([p[1] for p in parts])

    @stats.vjp
    def backward(primals: Any, cotangents: Any, _: Any) -> tuple[mx.array, Params]:
        hidden, weights = primals
        pieces: list[mx.array] = []
        sums: Params = {name: mx.zeros(w.shape, mx.float32) for name, w in weights.items()}
        for start in starts:
            piece = hidden[start : start + chunk]
            if pieces:
                piece = mx.depends(piece, [pieces[-1], *sums.values()])
            pulls = [c[start : start + chunk] for c in cotangents]
            by_piece, by_weights = _pull(partial(one, start), piece, weights, pulls)
            pieces.append(by_piece)
            sums = {name: sums[name] + by_weights[name].astype(mx.float32) for name in sums}
        typed = {name: sums[name].astype(w.dtype) for name, w in weights.items()}
        return mx.concatenate(pieces), typed

    both: Any = stats(hidden, weights)
    split.model.update(tree_unflatten(list(weights.items())))
    return both[0], both[1]


def _pull(
    function: Callable[[mx.array, Params], Pair],
    piece: mx.array,
    weights: Params,
    cotangents: list[mx.array],
) -> tuple[mx.array, Params]:
    """`mx.vjp` for arguments that are an array and a dict, as it takes a flat list only."""
    names = list(weights)

    def flat(piece: mx.array, *arrays: mx.array) -> list[mx.array]:
        return list(function(piece, dict(zip(names, arrays, strict=True))))

    _, grads = mx.vjp(flat, [piece, *weights.values()], cotangents)
    return grads[0], dict(zip(names, grads[1:], strict=True))
