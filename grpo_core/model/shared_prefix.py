"""One prompt for its whole group: caches that put the prompt's keys and values before every row.

mlx-lm's models take them through their own `cache` argument. Each prompt runs once, its rows read
the same keys and values, and gradients flow into them. (The idea of shared-prefix inference,
Juravsky et al. 2024, arXiv 2402.05099, taken to training.) Models with sliding windows or recurrent
layers cannot do this; `abilities` finds out by trying.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

from grpo_core.model.trunk_head import SplitModel

KV = tuple[mx.array, mx.array]
"""Keys and values of one layer, each [B, heads, T, D]."""

# Prompt tokens that run together: enough to fill a GPU.
PREFILL_TOKENS = 4096

# Tokens that a cache gets room for at a time.
ROOM = 64

# A wrong mask or position is off by whole nats; 16-bit logits differ by this much at most.
PROBE_TOLERANCE = 0.5
PROBE_TOLERANCE_FP32 = 1e-2


class UnsupportedModel(Exception):
    """A model that the shared-prompt path cannot carry; the plain batch can."""


class PrefixCache:
    """One layer's cache: the prompt's keys and values in front of those of every row.

    Quacks like mlx-lm's caches. It keeps no running state, so a layer may be called again with
    the same input, as gradient checkpointing does. `fresh` holds what the last call brought.
    """

    def __init__(self, prefix: KV | None = None) -> None:
        self.prefix = prefix
        self.fresh: KV | None = None

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
        if window_size is not None:
            raise UnsupportedModel("a sliding window")
        if return_array:
            mask: mx.array = create_causal_mask(N, self.offset)
            return mask
        # "causal" aligns the last query with the last key, so the prefix is seen by all.
        return None if N == 1 else "causal"


def _in_front(prefix: mx.array, rows: mx.array) -> mx.array:
    """`prefix` [1 or B, H, P, D] before each row of `rows` [B, H, T, D]."""
    shape = (rows.shape[0], *prefix.shape[1:])
    return mx.concatenate([mx.broadcast_to(prefix, shape), rows], axis=2)


class DecodeCache:
    """One layer's cache while decoding, a token at a time: the prompt's keys and values, then own.

    `prefix` [P, H, L, D] are those of P prompts, right-padded to one length; row b continues prompt
    `owner[b]`, whose length is `lengths[owner[b]]`. There is room for tokens to come, which are
    written in place: joining all anew for each token would move the whole cache.
    """

    def __init__(self, prefix: KV, lengths: Sequence[int], owner: Sequence[int]) -> None:
        rows = mx.array(list(owner))
        self.kv = prefix[0][rows], prefix[1][rows]  # [B, H, L + room, D]
        self.lengths = mx.array(list(lengths))[rows]  # [B]
        self.longest = int(prefix[0].shape[2])
        self.is_ragged = min(lengths) < self.longest
        self.steps = 0  # tokens decoded so far

    @property
    def offset(self) -> Any:
        """The position of the next token: a number, or one for each row."""
        return (self.lengths if self.is_ragged else self.longest) + self.steps

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KV:
        """Takes one more token of every row in; keys and values to attend to."""
        place = self.longest + self.steps
        if place == self.kv[0].shape[2]:
            self.kv = _with_room(self.kv[0]), _with_room(self.kv[1])
        for kept, new in zip(self.kv, (keys, values), strict=True):
            kept[:, :, place : place + 1] = new
        self.steps += 1
        return self.kv[0][:, :, : place + 1], self.kv[1][:, :, : place + 1]

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """[B, 1, 1, keys]: all but the padding behind shorter prompts."""
        if window_size is not None:
            raise UnsupportedModel("a sliding window")
        if not self.is_ragged:
            return None
        place = mx.arange(self.longest + self.steps + N)
        seen = (place < self.lengths[:, None]) | (place >= self.longest)
        return seen[:, None, None]

    def keep(self, rows: mx.array) -> None:
        """Drops every row that is not among `rows` (numbers of rows, [K])."""
        self.lengths = self.lengths[rows]
        self.kv = self.kv[0][rows], self.kv[1][rows]


def _with_room(rows: mx.array) -> mx.array:
    """`rows` [B, H, T, D] with places for some more tokens behind."""
    B, H, _, D = rows.shape
    return mx.concatenate([rows, mx.zeros((B, H, ROOM, D), rows.dtype)], axis=2)


def run_prefix(split: SplitModel, prompt: mx.array) -> tuple[list[KV], mx.array]:
    """`prompt` [1, P] -> keys and values of every layer, and the last hidden state [1, 1, D]."""
    prefix, hidden = _run_prompts(split, prompt)
    return prefix, hidden[:, -1:]


def run_prompts(
    split: SplitModel, prompts: Sequence[Sequence[int]]
) -> tuple[list[KV], mx.array, list[int]]:
    """Keys and values of every layer [P, H, L, D], last hidden states [P, D], lengths; evaluated.

    Prompts of several lengths are padded behind, where nothing before it sees the padding, so no
    mask is needed. They run some at a time, which bounds the memory of their activations.
    """
    lengths = [len(prompt) for prompt in prompts]
    at_once = max(1, PREFILL_TOKENS // max(lengths))
    parts = []
    for start in range(0, len(prompts), at_once):
        some = slice(start, start + at_once)
        prefix, hidden = _run_prompts(split, _padded(prompts[some], max(lengths)))
        last = hidden[mx.arange(hidden.shape[0]), mx.array(lengths[some]) - 1]
        mx.eval(prefix, last)
        parts.append((prefix, last))
    if len(parts) == 1:
        return *parts[0], lengths
    return _joined([prefix for prefix, _ in parts]), mx.concatenate([x for _, x in parts]), lengths


def _joined(parts: list[list[KV]]) -> list[KV]:
    """The same layers of several batches, one behind the other."""
    return [
        (mx.concatenate([kv[0] for kv in layer]), mx.concatenate([kv[1] for kv in layer]))
        for layer in zip(*parts, strict=True)
    ]


def _padded(prompts: Sequence[Sequence[int]], length: int) -> mx.array:
    ids = np.zeros((len(prompts), length), np.int32)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    return mx.array(ids)


def _run_prompts(split: SplitModel, ids: mx.array) -> tuple[list[KV], mx.array]:
    caches = [PrefixCache() for _ in range(split.layers)]
    hidden = split.trunk(ids, caches)
    fresh = [cache.fresh for cache in caches if cache.fresh is not None]
    if len(fresh) < len(caches):
        raise UnsupportedModel("a layer that leaves its cache alone")
    return fresh, hidden


def run_rows(
    split: SplitModel, prefix: list[KV], last: mx.array, ids: mx.array, length: int
) -> mx.array:
    """Hidden states [B, C, D] that predict completions of `length` C tokens behind one prompt.

    `ids` [B, C - 1] are the completions without their last token; the first state is the
    prompt's last one, computed once and seen by all rows.
    """
    first = mx.broadcast_to(last, (ids.shape[0], *last.shape[1:]))
    if length == 1:
        return first
    caches = [PrefixCache(kv) for kv in prefix]
    return mx.concatenate([first, split.trunk(ids, caches)], axis=1)


# --- what a model can do


@dataclass(frozen=True, slots=True)
class Abilities:
    """What of this module a model can do."""

    share_prefix: bool
    mix_lengths: bool  # prompts of several lengths in one batch of decoding


def abilities(split: SplitModel, vocab_size: int) -> Abilities:
    """Finds out by trying on a few tokens: shared and plain must give the same log-probs."""
    if not has_plain_caches(split.model):
        return Abilities(False, False)
    ids = mx.arange(1, 9) % vocab_size
    share = _agrees(split, ids, _try_rows)
    return Abilities(share, share and _agrees(split, ids, _try_decode))


def has_plain_caches(model: nn.Module) -> bool:
    """Whether every layer keeps plain keys and values: no sliding window, no recurrent state."""
    return all(type(cache) is KVCache for cache in make_prompt_cache(model))


def _agrees(split: SplitModel, ids: mx.array, attempt: Any) -> bool:
    """Whether an attempt gives the model's own log-probs behind `ids` [8]."""
    plain = split.model(ids[None])[0]
    try:
        shared = split.head(attempt(split, ids))
    except (UnsupportedModel, AttributeError, TypeError, ValueError, IndexError):
        # Whatever a model of another make does with a cache that is not its own.
        return False
    tolerance = PROBE_TOLERANCE_FP32 if plain.dtype == mx.float32 else PROBE_TOLERANCE
    expected, found = log_softmax(plain)[-shared.shape[0] :], log_softmax(shared)
    likely = expected > -20  # the far tail of 16-bit logits says nothing
    worst = mx.where(likely, mx.abs(expected - found), 0).max()
    return bool((worst < tolerance).item())  # NaN is no agreement


def log_softmax(logits: mx.array) -> mx.array:
    """Over the last axis, in fp32."""
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def _try_rows(split: SplitModel, ids: mx.array) -> mx.array:
    """The last five states of `ids`, as the update makes them."""
    prefix, last = run_prefix(split, ids[None, :4])
    return run_rows(split, prefix, last, mx.broadcast_to(ids[4:], (2, 4)), 5)[1]


def _try_decode(split: SplitModel, ids: mx.array) -> mx.array:
    """The last two states of `ids`, decoded beside a longer prompt."""
    prompts = [ids[:6].tolist(), [0] * 9]
    prefix, _, lengths = run_prompts(split, prompts)  # type: ignore[arg-type]
    caches = [DecodeCache(kv, lengths, [1, 0]) for kv in prefix]
    states = [split.trunk(mx.broadcast_to(ids[t], (2, 1)), caches)[1, 0] for t in (6, 7)]
    return mx.stack(states)
