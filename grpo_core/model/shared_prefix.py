"""One prompt for its whole group: caches that put what a prompt has left before every row.

mlx-lm's models take them through their own `cache` argument. Each prompt runs once; its rows read
the same keys and values, within a window where the model has one, and go on from the same recurrent
and convolution states; gradients flow into all of it. (The idea of shared-prefix inference,
Juravsky et al. 2024, arXiv 2402.05099, taken to training.) What a model can do `abilities` finds by
trying.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import (
    ArraysCache,
    CacheList,
    KVCache,
    RotatingKVCache,
    make_prompt_cache,
)

from grpo_core.model.decode_cache import KV, DecodeCache, DecodeRows, behind_prompts, parts_of
from grpo_core.model.trunk_head import SplitModel

Left = KV | list[mx.array]
"""What a prompt leaves in one cache: keys and values, or recurrent states [B, ...]."""

# Prompt tokens that run together: enough to fill a GPU; a CPU gains nothing by so many.
GPU_PREFILL_TOKENS, CPU_PREFILL_TOKENS = 4096, 1024

# Tokens on which a model is tried, where no window asks for more.
PROBE_TOKENS = 8
# Of these the last states are compared.
PROBE_COMPARED = 5

# A wrong mask or position is off by whole nats; 16-bit logits differ by this much at most.
PROBE_TOLERANCE = 0.5
PROBE_TOLERANCE_FP32 = 1e-2


class UnsupportedModel(Exception):
    """A model that the shared-prompt path cannot carry; the plain batch can."""


class PrefixCache:
    """One layer's cache: the prompt's keys and values in front of those of every row.

    Quacks like mlx-lm's caches. `fresh` holds what the last call brought; `window` is how many
    tokens a query sees, itself included, 0 for all.
    """

    def __init__(self, prefix: KV | None = None, window: int = 0) -> None:
        self.prefix = prefix
        self.fresh: KV | None = None
        self.window = window

    @property
    def offset(self) -> Any:
        """The position of the next token: a number, or one for each row."""
        return 0 if self.prefix is None else int(self.prefix[0].shape[2])

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KV:
        """Keys and values to attend to: the prompt's, then the given ones."""
        self.fresh = keys, values
        if self.prefix is None:
            return keys, values
        return _in_front(self.prefix[0], keys), _in_front(self.prefix[1], values)

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """What mlx-lm's attention wants for `N` queries behind the prompt."""
        window = window_size or self.window or None
        if return_array or (window and self.offset + N > window):
            mask: mx.array = create_causal_mask(N, self.offset, window_size=window)
            return mask
        # "causal" aligns the last query with the last key, so the prefix is seen by all.
        return None if N == 1 else "causal"


def _in_front(prefix: mx.array, rows: mx.array) -> mx.array:
    """`prefix` [1 or B, H, P, D] before each row of `rows` [B, H, T, D]."""
    shape = (rows.shape[0], *prefix.shape[1:])
    return mx.concatenate([mx.broadcast_to(prefix, shape), rows], axis=2)


def run_prefix(split: SplitModel, prompt: mx.array) -> tuple[list[Left], mx.array]:
    """`prompt` [1, P] -> what it leaves in every cache, and the last hidden state [1, 1, D]."""
    prefix, hidden = _run_prompts(split, prompt)
    return prefix, hidden[:, -1:]


def run_prompts(
    split: SplitModel, prompts: Sequence[Sequence[int]]
) -> tuple[list[Left], mx.array, list[int]]:
    """What P prompts leave in every cache, last hidden states [P, D], lengths; evaluated.

    Prompts of several lengths are padded behind, where nothing before it sees the padding, so no
    mask is needed; only where there are recurrent states does each length run by itself. They run
    some at a time, which bounds the memory of their activations.
    """
    lengths = [len(prompt) for prompt in prompts]
    parts = []
    for some in _together(lengths, _has_states(split.model), prefill_tokens()):
        prefix, hidden = _run_prompts(split, _padded(prompts[some], max(lengths[some])))
        last = hidden[mx.arange(hidden.shape[0]), mx.array(lengths[some]) - 1]
        mx.eval(prefix, last)
        parts.append((prefix, last))
    if len(parts) == 1:
        return *parts[0], lengths
    layers = zip(*(prefix for prefix, _ in parts), strict=True)
    joined = [_joined(list(layer), max(lengths)) for layer in layers]
    return joined, mx.concatenate([last for _, last in parts]), lengths


def prefill_tokens() -> int:
    """How many tokens of prompts run together at most, where one alone has fewer."""
    return CPU_PREFILL_TOKENS if mx.default_device() == mx.cpu else GPU_PREFILL_TOKENS


def _together(lengths: Sequence[int], of_one_length: bool, most: int) -> list[slice]:
    """Which prompts run at once: neighbours, at most so many tokens."""
    found = [0]
    for i, length in enumerate(lengths):
        first = found[-1]
        full = (i - first + 1) * max(lengths[first : i + 1]) > most
        if i > first and (full or (of_one_length and length != lengths[first])):
            found.append(i)
    return [slice(*ends) for ends in zip(found, [*found[1:], len(lengths)], strict=True)]


def _joined(parts: list[Left], length: int) -> Left:
    """One cache of several batches, one behind the other; keys and values padded to `length`."""
    if not isinstance(parts[0], tuple):
        return [mx.concatenate(list(states)) for states in zip(*parts, strict=True)]
    keys, values = zip(*parts, strict=True)
    return mx.concatenate([_wide(k, length) for k in keys]), mx.concatenate(
        [_wide(v, length) for v in values]
    )


def _wide(rows: mx.array, length: int) -> mx.array:
    """`rows` [B, H, T, D] padded behind to `length` tokens."""
    B, H, T, D = rows.shape
    missing = length - T
    if not missing:
        return rows
    return mx.concatenate([rows, mx.zeros((B, H, missing, D), rows.dtype)], axis=2)


def _padded(prompts: Sequence[Sequence[int]], length: int) -> mx.array:
    ids = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    return mx.array(ids)


def _run_prompts(split: SplitModel, ids: mx.array) -> tuple[list[Left], mx.array]:
    caches = _caches(split.model, _empty)
    hidden = split.trunk(ids, caches)
    return [_left(part) for part in parts_of(caches)], hidden


def _caches(model: nn.Module, make: Callable[[Any], Any]) -> list[Any]:
    """The model's own caches, each with `make`'s in its place."""

    def one(cache: Any) -> Any:
        if isinstance(cache, CacheList):
            return CacheList(*map(one, cache.caches))
        return make(cache)

    return [one(cache) for cache in make_prompt_cache(model)]


def _window(cache: Any) -> int:
    return int(cache.max_size) if isinstance(cache, RotatingKVCache) else 0


def _empty(cache: Any) -> Any:
    """A cache that takes a prompt in; UnsupportedModel for one of another kind."""
    kind = type(cache)
    if kind is ArraysCache:
        return cache
    if kind is KVCache or (kind is RotatingKVCache and cache.keep == 0):
        return PrefixCache(window=_window(cache))
    raise UnsupportedModel(kind.__name__)


def _left(cache: Any) -> Left:
    held = cache.fresh if isinstance(cache, PrefixCache) else list(cache.cache)
    if held is None or not all(_is_float(array) for array in held):
        raise UnsupportedModel("a layer that leaves its cache alone, or counts in it")
    left: Left = held
    return left


def _is_float(array: mx.array | None) -> bool:
    return array is not None and bool(mx.issubdtype(array.dtype, mx.floating))


def _has_states(model: nn.Module) -> bool:
    return any(type(part) is ArraysCache for part in parts_of(make_prompt_cache(model)))


def can_fork(model: nn.Module) -> bool:
    """Whether its caches are of kinds that rows can share a prompt through."""
    try:
        _caches(model, _empty)
    except UnsupportedModel:
        return False
    return True


def decode_caches(
    split: SplitModel, prefix: list[Left], lengths: Sequence[int], owner: Sequence[int]
) -> list[Any]:
    """Caches to decode with: row b goes on behind prompt `owner[b]` of those in `prefix`."""
    given = iter(prefix)
    rows = DecodeRows([lengths[p] for p in owner])
    number = mx.array(list(owner))

    def behind(cache: Any) -> Any:
        left = next(given)
        if isinstance(left, tuple):
            return DecodeCache(behind_prompts(left, lengths, owner), rows, _window(cache))
        cache.cache = [state[number] for state in left]
        return cache

    return _caches(split.model, behind)


def run_rows(
    split: SplitModel, prefix: list[Left], last: mx.array, ids: mx.array, length: int
) -> mx.array:
    """Hidden states [B, C, D] that predict completions of `length` C tokens behind one prompt.

    `ids` [B, C - 1] are the completions without their last token; the first state is the
    prompt's last one, computed once and seen by all rows.
    """
    rows = ids.shape[0]
    first = mx.broadcast_to(last, (rows, *last.shape[1:]))
    if length == 1:
        return first
    given = iter(prefix)

    def behind(cache: Any) -> Any:
        left = next(given)
        if isinstance(left, tuple):
            return PrefixCache(left, _window(cache))
        cache.cache = [mx.broadcast_to(state, (rows, *state.shape[1:])) for state in left]
        return cache

    return mx.concatenate([first, split.trunk(ids, _caches(split.model, behind))], axis=1)


# --- what a model can do


@dataclass(frozen=True, slots=True)
class Abilities:
    """What of this module a model can do, by how far the log-probs are apart: shared, and plain."""

    shared: float = math.inf
    """The worst difference in nats with one prompt for its rows; infinite where that fails."""
    mixed: float = math.inf
    """The same with prompts of several lengths in one batch of decoding."""
    tolerance: float = 0.0

    @property
    def share_prefix(self) -> bool:
        """Whether rows can share their prompt."""
        return self.shared < self.tolerance

    @property
    def mix_lengths(self) -> bool:
        """Whether prompts of several lengths can be decoded in one batch."""
        return self.share_prefix and self.mixed < self.tolerance


def abilities(split: SplitModel, vocab_size: int, length: int = PROBE_TOKENS) -> Abilities:
    """Finds out by trying on `length` tokens: shared and plain must give the same log-probs."""
    ids = mx.arange(1, length + 1) % vocab_size
    plain = split.model(ids[None])[0, -PROBE_COMPARED:]
    rows, decoded, mixed = (
        _difference(split, ids, plain, attempt)
        for attempt in (_try_rows, _try_decode, _try_decode_mixed)
    )
    tolerance = PROBE_TOLERANCE_FP32 if plain.dtype == mx.float32 else PROBE_TOLERANCE
    return Abilities(max(rows, decoded), mixed, tolerance)


def _difference(split: SplitModel, ids: mx.array, plain: mx.array, attempt: Any) -> float:
    """How far an attempt is from the model's own log-probs behind `ids` [T]; `plain` are the last.

    Infinite where it fails, or gives no numbers.
    """
    try:
        worst = _worst(plain, split.head(attempt(split, ids)))
    except (UnsupportedModel, AttributeError, TypeError, ValueError, IndexError):
        # Whatever a model of another make does with a cache that is not its own.
        return math.inf
    return math.inf if math.isnan(worst) else worst


def _worst(plain: mx.array, shared: mx.array) -> float:
    expected, found = log_softmax(plain)[-shared.shape[0] :], log_softmax(shared)
    likely = expected > -20  # the far tail of 16-bit logits says nothing
    worst: Any = mx.where(likely, mx.abs(expected - found), 0).max().item()
    return float(worst)


def log_softmax(logits: mx.array) -> mx.array:
    """Over the last axis, in fp32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _try_rows(split: SplitModel, ids: mx.array) -> mx.array:
    """The last five states of `ids`, as the update makes them."""
    prefix, last = run_prefix(split, ids[None, :-4])
    return run_rows(split, prefix, last, mx.broadcast_to(ids[-4:], (2, 4)), 5)[1]


def _try_decode(split: SplitModel, ids: mx.array) -> mx.array:
    """The last two states of `ids`, decoded in two rows."""
    return _decoded(split, ids, [ids[:-2].tolist()], [0, 0])  # type: ignore[list-item]


def _try_decode_mixed(split: SplitModel, ids: mx.array) -> mx.array:
    """The same beside a longer prompt."""
    return _decoded(split, ids, [ids[:-2].tolist(), [0] * (ids.size + 1)], [1, 0])  # type: ignore[list-item]


def _decoded(
    split: SplitModel, ids: mx.array, prompts: list[list[int]], owner: list[int]
) -> mx.array:
    prefix, _, lengths = run_prompts(split, prompts)
    caches = decode_caches(split, prefix, lengths, owner)
    states = [split.trunk(mx.broadcast_to(token, (2, 1)), caches)[1, 0] for token in ids[-2:]]
    return mx.stack(states)
