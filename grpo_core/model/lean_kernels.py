"""Layers' operations in fp32 with few parts: SwiGLU, RMS norm, rotation and attention.

Each has a backward pass written by hand, which keeps little of the forward pass; exponentials are
those of `cpu`. Arrays in, arrays out: when a model computes with them says `lean_operations`.
"""

import math
from typing import Any

import mlx.core as mx

from grpo_core.model.cpu import exp

# --- SwiGLU


def gate(by: mx.array, x: mx.array) -> tuple[mx.array, mx.array]:
    """silu(by) * x, and the sigmoid of `by`, which a backward pass needs again."""
    sigmoid = 1 / (1 + mx.power(1 / math.e, by))
    return by * sigmoid * x, sigmoid


def plain_swiglu(by: mx.array, x: mx.array) -> mx.array:
    """silu(by) * x where no gradient is taken."""
    return by * x / (1 + mx.power(1 / math.e, by))


_swiglu: Any = mx.custom_function(gate)


@_swiglu.vjp  # type: ignore[untyped-decorator]
def _pull_swiglu(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    by, x = primals
    sigmoid = outputs[1]
    silu = by * sigmoid
    # silu' = s + g s (1 - s)
    return cotangents[0] * x * (sigmoid + silu - silu * sigmoid), cotangents[0] * silu


def swiglu(by: mx.array, x: mx.array) -> mx.array:
    """silu(by) * x with a backward pass."""
    out: mx.array = _swiglu(by, x)[0]
    return out


# --- RMS norm


def norm(x: mx.array, weight: mx.array, eps: float) -> tuple[mx.array, mx.array]:
    """`x` [..., D] over its root mean square, times `weight` [D]; and one over that root."""
    inverse = mx.rsqrt(mx.square(x).mean(axis=-1, keepdims=True) + eps)
    return x * inverse * weight, inverse


def widened(weight: mx.array) -> mx.array:
    """`weight` [D] times the root of D, for `plain_norm`."""
    return weight * math.sqrt(weight.size)


def plain_norm(x: mx.array, wide_weight: mx.array, eps: float) -> mx.array:
    """The first of `norm`'s two where no gradient is taken: by the sum of squares, not the mean."""
    squares = mx.square(x).sum(axis=-1, keepdims=True)
    return x * mx.rsqrt(squares + eps * x.shape[-1]) * wide_weight


def rms_norm(x: mx.array, weight: mx.array, eps: float) -> mx.array:
    """The first of `norm`'s two with a backward pass."""
    run: Any = mx.custom_function(lambda x, weight: norm(x, weight, eps))
    run.vjp(_pull_norm)
    out: mx.array = run(x, weight)[0]
    return out


def _pull_norm(primals: Any, cotangents: Any, outputs: Any) -> tuple[mx.array, mx.array]:
    x, weight = primals
    inverse = outputs[1]
    scaled = x * inverse
    by_scaled = cotangents[0] * weight
    along = (by_scaled * scaled).mean(axis=-1, keepdims=True)
    by_weight = (cotangents[0] * scaled).reshape(-1, x.shape[-1]).sum(axis=0)
    return (by_scaled - scaled * along) * inverse, by_weight


# --- rotary embedding


def angles(
    dims: int,
    traditional: bool,
    base: float | None,
    scale: float,
    offset: Any,
    length: int,
    freqs: mx.array | None,
) -> tuple[mx.array, mx.array]:
    """Cosines and sines [1 or B, 1, length, dims] of each position and number of a head."""
    half = mx.arange(dims // 2, dtype=mx.float32)
    slow = mx.exp(half * (-math.log(base or 1) * 2 / dims)) if freqs is None else 1 / freqs
    first = offset.reshape(-1, 1) if isinstance(offset, mx.array) else mx.array([[offset]])
    places = (first + mx.arange(length)).astype(mx.float32) * scale
    turns = places[:, None, :, None] * slow
    both = mx.stack([turns] * 2, axis=-1 if traditional else -2)
    turns = both.reshape(*turns.shape[:-1], dims)
    return mx.cos(turns), mx.sin(turns)


def swap(dims: int, traditional: bool) -> mx.array:
    """x @ swap is what is multiplied by the sines: [-x2, x1] for the halves [x1, x2]."""
    eye = mx.eye(dims // 2)
    zero = mx.zeros_like(eye)
    rows = mx.concatenate(
        [mx.concatenate([zero, eye], axis=1), mx.concatenate([-eye, zero], axis=1)]
    )
    if not traditional:
        return rows
    places = mx.argsort(mx.arange(dims).reshape(-1, 2).T.reshape(-1))
    return rows[places][:, places]


def turns(cosines: mx.array, sines: mx.array, swapped: mx.array) -> mx.array:
    """A matrix for each position, [length, dims, dims], which turns a head as `rotate` does."""
    dims = swapped.shape[0]
    return mx.eye(dims) * cosines.reshape(-1, 1, dims) + swapped * sines.reshape(-1, 1, dims)


@mx.custom_function
def rotate(x: mx.array, cosines: mx.array, sines: mx.array, swapped: mx.array) -> mx.array:
    """`x` [..., dims] turned by angles whose cosines and sines these are."""
    return x * cosines + (x @ swapped) * sines


@rotate.vjp
def _pull_rotate(primals: Any, cotangent: mx.array, _: Any) -> Any:
    _, cosines, sines, swapped = primals
    back = cotangent * cosines - (cotangent @ swapped) * sines
    return back, mx.zeros_like(cosines), mx.zeros_like(sines), mx.zeros_like(swapped)


# --- attention


def causal(T: int, S: int) -> mx.array:
    """[T, S]: 0, and -inf on keys after a query; the last query sees all keys."""
    return as_sum(mx.arange(S - T, S)[:, None] >= mx.arange(S))


def as_sum(mask: mx.array) -> mx.array:
    """A mask to be added to the scores."""
    return mx.where(mask, 0.0, -mx.inf) if mask.dtype == mx.bool_ else mask


def attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | None, hides: bool = False
) -> mx.array:
    """Softmax attention of `q` [B, H, T, D] to `k` and `v` [B, K, S, D], plus `mask` [..., T, S].

    H / K heads share their keys, and run as rows of one product. Unlike a softmax of its own, the
    sum divides the values and not every share. A mask that only `hides` is 0 or -inf.
    """
    B, H, T, D = q.shape
    K = k.shape[1]
    # Of a single query, which is decoded, the scale goes into the exponential for nothing.
    late = scale if T == 1 and (mask is None or hides) else 1.0
    q = q if late != 1 else q * scale
    if mask is not None:
        mask = _by_rows(mask, H // K)

    def attend(q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        turned = k.swapaxes(-1, -2)
        scores = q @ turned if mask is None else mx.addmm(mask, q, turned)
        odds = exp(scores - scores.max(axis=-1, keepdims=True), late)
        total = odds.sum(axis=-1, keepdims=True)
        return (odds @ v) / total, odds, total

    run: Any = attend
    if T > 1:
        run = mx.custom_function(attend)
        run.vjp(_pull_attention)
    out: mx.array = run(q.reshape(B, K, H // K * T, D), k, v)[0]
    return out.reshape(B, H, T, -1)


def _pull_attention(primals: Any, cotangents: Any, outputs: Any) -> Any:
    q, k, v = primals
    out, odds, total = outputs
    over = cotangents[0] / total
    along = -(over * out).sum(axis=-1, keepdims=True)
    by_scores = odds * mx.addmm(along, over, v.swapaxes(-1, -2))
    return by_scores @ k, by_scores.swapaxes(-1, -2) @ q, odds.swapaxes(-1, -2) @ over


def _by_rows(mask: mx.array, shared: int) -> mx.array:
    """The mask for the rows of heads that share their keys: [.., K or 1, shared * T, S]."""
    if shared == 1:
        return mask
    if mask.ndim > 2 and mask.shape[-3] > 1:
        heads = mask.shape[-3]
        shape = (*mask.shape[:-3], heads // shared, shared * mask.shape[-2], mask.shape[-1])
        return mask.reshape(shape)
    return mx.concatenate([mask] * shared, axis=-2)
