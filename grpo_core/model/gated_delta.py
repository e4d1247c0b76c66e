"""The gated delta rule in chunks: Qwen3.5, Qwen3-Next, Kimi-Linear and other recurrent layers.

mlx-lm takes a gradient through a loop over tokens, which keeps several states for each token (one
layer at 512 tokens: gigabytes); on the CPU MLX's own `mx.fast.gated_delta_update` is that loop too.
Here a chunk of tokens is a few products and a triangular solve, and one state is kept for each
chunk (Yang et al. 2024, Gated Delta Networks, arXiv 2412.06464, section 3.3; the triangular part is
the WY form of arXiv 2406.06484). Single tokens stay with mlx-lm, and so do its Metal kernels, which
run where no gradient is taken.
"""

from typing import Any

import mlx.core as mx
from mlx_lm.models import gated_delta

# Tokens that become products. A gate for each channel multiplies what a chunk takes by its width.
CHUNK = 64
CHUNK_BY_CHANNEL = 16

# The least gate, so that its logarithm is finite: e to the power of -87. Not below the least normal
# number of fp32, 1.18e-38, as a GPU may take what is smaller for 0.
LEAST_GATE = 1.2e-38

_loop = gated_delta.gated_delta_ops


def install() -> None:
    """Has mlx-lm's models take this form; once for the whole process."""
    gated_delta.gated_delta_ops = gated_delta_rule


def gated_delta_rule(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array | None = None,
    mask: mx.array | None = None,
) -> tuple[mx.array, mx.array]:
    """What `mlx_lm.models.gated_delta.gated_delta_ops` gives: outputs and the last state.

    `q`, `k` [B, T, K, D]; `v` [B, T, H, E]; the gates `g` [B, T, H] or, one for each channel,
    [B, T, H, D]; `beta` [B, T, H]; `state` [B, H, E, D]; `mask` [B, T], false where a token leaves
    the state alone. Outputs [B, T, H, E]. For each token, with S the state:
    S <- g S; S <- S + beta (v - S k) k'; output S q.
    """
    B, T, K, D = q.shape
    H, E = v.shape[2:]
    if state is None:
        state = mx.zeros((B, H, E, D), mx.float32)
    if T == 1:
        one: tuple[mx.array, mx.array] = _loop(q, k, v, g, beta, state, mask)
        return one
    if mask is not None:
        g = mx.where(mask.reshape(B, T, *[1] * (g.ndim - 2)), g, 1)
        beta = mx.where(mask[..., None], beta, 0)
    if H > K:
        q, k = mx.repeat(q, H // K, axis=2), mx.repeat(k, H // K, axis=2)
    chunk = min(CHUNK if g.ndim == 3 else CHUNK_BY_CHANNEL, 1 << (T - 1).bit_length())
    parts = [_chunks(x, chunk, fill) for x, fill in ((q, 0), (k, 0), (v, 0), (beta, 0), (g, 1))]
    outputs, last = _run(parts, state.astype(mx.float32).swapaxes(-1, -2))
    whole = outputs.transpose(0, 2, 3, 1, 4).reshape(B, -1, H, E)
    return whole[:, :T].astype(q.dtype), last.swapaxes(-1, -2).astype(state.dtype)


def _chunks(x: mx.array, chunk: int, fill: float) -> mx.array:
    """[B, T, H, ...] -> [B, H, N, C, ...] in fp32; what is missing at the end is `fill`."""
    B, T, H, *rest = x.shape
    missing = -T % chunk
    if missing:
        x = mx.concatenate([x, mx.full((B, missing, H, *rest), fill, x.dtype)], axis=1)
    cut = x.astype(mx.float32).reshape(B, -1, chunk, H, *rest)
    return mx.moveaxis(cut, 3, 1)


def _run(chunks: list[mx.array], state: mx.array) -> tuple[mx.array, mx.array]:
    """q, k, v, beta, g [B, H, N, C, ...] and the first state [B, H, D, E] -> outputs, last state.

    With S the state before a chunk and G the product of its gates up to a token, what the tokens
    write solves (1 + A) W = beta (V - G K S), where A holds what each reads of those before it.
    """
    q, k, v, beta, g = chunks
    sums = mx.cumsum(mx.log(mx.maximum(g, LEAST_GATE)), axis=3)
    if g.ndim == 4:
        sums = sums[..., None]  # one for all channels
    earlier, earlier_q = _reads(q, k, sums)
    inverse: Any = _unit_inverse(beta[..., None] * earlier)
    so_far, to_the_end = mx.exp(sums), mx.exp(sums[..., -1:, :] - sums)
    fresh = inverse @ (beta[..., None] * v)
    known = inverse @ (beta[..., None] * k * so_far)
    q, k = q * so_far, (k * to_the_end).swapaxes(-1, -2)
    decay = so_far[..., -1, :, None]  # [B, H, N, D or 1, 1]
    outputs = []
    # Parted at once: the gradient of an index would fill the whole array for each chunk.
    parts = [mx.split(x, x.shape[2], axis=2) for x in (q, k, fresh, known, earlier_q, decay)]
    state = state[:, :, None]
    for q_n, k_n, fresh_n, known_n, earlier_n, decay_n in zip(*parts, strict=True):
        written = fresh_n - known_n @ state
        outputs.append(q_n @ state + earlier_n @ written)
        state = decay_n * state + k_n @ written
    return mx.concatenate(outputs, axis=2), state[:, :, 0]


def _reads(q: mx.array, k: mx.array, sums: mx.array) -> tuple[mx.array, mx.array]:
    """What a later key, and the same or a later query, finds of a token's write: [..., C, C]."""
    C = k.shape[-2]
    is_later = mx.tri(C, C, -1) > 0
    is_not_earlier = mx.tri(C, C) > 0
    apart = sums[..., :, None, :] - sums[..., None, :, :]  # [..., C, C, D or 1]
    gates = mx.exp(mx.where(is_not_earlier[..., None], apart, -mx.inf))
    if sums.shape[-1] == 1:
        gates = gates[..., 0]
        by_k, by_q = k @ k.swapaxes(-1, -2) * gates, q @ k.swapaxes(-1, -2) * gates
    else:
        faded = gates * k[..., None, :, :]
        by_k, by_q = (faded @ x[..., None] for x in (k, q))
        by_k, by_q = by_k[..., 0], by_q[..., 0]
    return mx.where(is_later, by_k, 0), by_q


@mx.custom_function
def _unit_inverse(lower: mx.array) -> mx.array:
    """The inverse of 1 + `lower` [..., C, C], which is zero on and above the diagonal.

    By blocks of twice the size: the inverse of [[P, 0], [X, Q]] is [[P', 0], [-Q' X P', Q']].
    """
    *batch, C, _ = lower.shape
    blocks = mx.ones((*batch, C, 1, 1))
    size = 1
    while size < C:
        pairs = C // size // 2
        cut = lower.reshape(*batch, pairs, 2, size, pairs, 2, size)[..., :, 1, :, :, 0, :]
        below = mx.moveaxis(mx.diagonal(cut, axis1=-4, axis2=-2), -1, -3)
        first, second = blocks[..., 0::2, :, :], blocks[..., 1::2, :, :]
        top = mx.concatenate([first, mx.zeros_like(first)], axis=-1)
        bottom = mx.concatenate([-second @ below @ first, second], axis=-1)
        blocks = mx.concatenate([top, bottom], axis=-2)
        size *= 2
    return blocks[..., 0, :, :]


@_unit_inverse.vjp
def _pull_unit_inverse(_: mx.array, cotangent: mx.array, inverse: mx.array) -> mx.array:
    turned = inverse.swapaxes(-1, -2)
    return -turned @ cotangent @ turned
