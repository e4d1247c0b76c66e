"""Log-probs and entropies of given tokens, with gradients, in chunks of the vocabulary head.

The head is the memory hog: T x V logits in fp32. So it sees completion positions only, and beyond
one chunk neither logits nor softmax outlive their chunk: the backward pass computes them again
(the idea of Liger's and Unsloth's fused losses, by `mx.custom_function`). Where hidden states come
from is `update`'s and `forward`'s business.
"""

from typing import Any

import mlx.core as mx
from mlx.utils import tree_unflatten

from grpo_core.forward import Halves


def token_stats(
    halves: Halves,
    hidden: mx.array,
    ids: mx.array,
    temperature: float,
    chunk: int,
    entropy_gradient: bool = False,
) -> tuple[mx.array, mx.array]:
    """`hidden` [N, D] and the tokens that follow, `ids` [N] -> log-probs [N], entropies [N].

    Both in nats and fp32, of softmax(logits / temperature) over the whole vocabulary. At most
    `chunk` positions pass the head at once. Entropies carry a gradient only if asked to.
    """
    if hidden.shape[0] <= chunk:
        return _stats(halves.head(hidden), ids, temperature, entropy_gradient)
    return _chunked(halves, hidden, ids, temperature, chunk, entropy_gradient)


def _stats(
    logits: mx.array, ids: mx.array, temperature: float, entropy_gradient: bool
) -> tuple[mx.array, mx.array]:
    logits = logits.astype(mx.float32)
    if temperature != 1:
        logits = logits / temperature
    norm = mx.logsumexp(logits, axis=-1)
    chosen = mx.take_along_axis(logits, ids[:, None], axis=-1).squeeze(-1)
    if not entropy_gradient:
        logits, free = mx.stop_gradient(logits), mx.stop_gradient(norm)
    else:
        free = norm
    mean = (mx.exp(logits - free[:, None]) * logits).sum(axis=-1)
    return chosen - norm, free - mean


def _chunked(
    halves: Halves,
    hidden: mx.array,
    ids: mx.array,
    temperature: float,
    chunk: int,
    entropy_gradient: bool,
) -> tuple[mx.array, mx.array]:
    """The same as `_stats` on all positions, with one chunk's logits alive at a time."""
    weights = halves.head_parameters()
    names = list(weights)
    starts = range(0, hidden.shape[0], chunk)

    def one(start: int, hidden: mx.array, *arrays: mx.array) -> list[mx.array]:
        """The chunk at `start`; `hidden` is its part only."""
        if names:
            params = tree_unflatten(list(zip(names, arrays, strict=True)))
            halves.model.update(params)
        part = ids[start : start + chunk]
        return list(_stats(halves.head(hidden), part, temperature, entropy_gradient))

    @mx.custom_function
    def stats(hidden: mx.array, *arrays: mx.array) -> list[mx.array]:
        parts: list[list[mx.array]] = []
        for start in starts:
            piece = hidden[start : start + chunk]
            if parts:
                piece = mx.depends(piece, parts[-1])  # one chunk after the other
            parts.append(one(start, piece, *arrays))
        return [mx.concatenate([part[i] for part in parts]) for i in (0, 1)]

    @stats.vjp
    def backward(primals: Any, cotangents: Any, _: Any) -> tuple[mx.array, ...]:
        # MLX hands over a lone argument as it is (adapters only: the head has no weights to train).
        hidden, *arrays = primals if isinstance(primals, list | tuple) else [primals]
        pieces: list[mx.array] = []
        sums: list[mx.array] = [mx.zeros(a.shape, mx.float32) for a in arrays]
        for start in starts:
            piece = hidden[start : start + chunk]
            if pieces:
                piece = mx.depends(piece, [pieces[-1], *sums])
            cots = [c[start : start + chunk] for c in cotangents]
            _, grads = mx.vjp(lambda *a, s=start: one(s, *a), [piece, *arrays], cots)
            pieces.append(grads[0])
            sums = [s + g.astype(mx.float32) for s, g in zip(sums, grads[1:], strict=True)]
        typed = [s.astype(a.dtype) for s, a in zip(sums, arrays, strict=True)]
        return mx.concatenate(pieces), *typed

    arrays = list(weights.values())
    both: Any = stats(hidden, *arrays)
    if names:
        halves.model.update(tree_unflatten(list(weights.items())))
    return both[0], both[1]
