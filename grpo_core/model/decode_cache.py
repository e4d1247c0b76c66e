"""Keys and values of rows that decode together, a token at a time, each behind its own prompt.

All rows end at the same place, whatever their lengths: the next token has one place in all of them,
and rows can join others that are under way. In front of a shorter row is padding, which the mask
hides. How a prompt is run is in `shared_prefix.py`, which rows decode in `rollout/generate.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_lm.models.cache import CacheList

KV = tuple[mx.array, mx.array]
"""Keys and values of one layer, each [B, heads, T, D]."""

# Tokens that a cache gets room for at a time.
ROOM = 64


class DecodeRows:
    """How many tokens each row has.

    The caches of all layers share it, so that positions and masks are made once a step.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = np.array(lengths, np.int32)
        self.longest = int(self.lengths.max())
        self.is_ragged = bool((self.lengths < self.longest).any())
        self._steps = 0
        self._made: dict[Any, mx.array] = {}

    def positions(self, steps: int) -> int | mx.array:
        """Of the token behind `steps` new ones: a number, or one for each row, [B]."""
        if not self.is_ragged:
            return self.longest + steps
        return self._once(steps, "positions", lambda: mx.array(self.lengths + steps))

    def mask(self, steps: int, queries: int, window: int) -> mx.array | None:
        """[B or 1, 1, 1, keys]: all but what is in front of a shorter row and what no window holds.

        None where all is seen. `window` is how many tokens a query sees, itself included, 0 for
        all.
        """
        keys = self.longest + steps + queries
        hidden = keys - window if window else 0
        if not self.is_ragged and hidden <= 0:
            return None
        first = np.maximum(self.longest - self.lengths, hidden)
        first = first if self.is_ragged else first[:1]
        return self._once(
            steps,
            (queries, window),
            lambda: mx.arange(keys) >= mx.array(first.reshape(-1, 1, 1, 1)),
        )

    def _once(self, steps: int, key: Any, make: Callable[[], mx.array]) -> mx.array:
        if steps != self._steps:
            self._steps, self._made = steps, {}
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


class DecodeCache:
    """One layer's cache while decoding: `kv` [B, H, T, D] behind each other, and room behind them.

    Quacks like mlx-lm's caches. New tokens are written in place: joining all anew for each token
    would move the whole cache.
    """

    def __init__(self, kv: KV, rows: DecodeRows, window: int = 0) -> None:
        self.kv = kv
        self.rows = rows
        self.window = window
        self.steps = 0  # tokens decoded since the rows are these

    @property
    def offset(self) -> Any:
        """The position of the next token: a number, or one for each row."""
        return self.rows.positions(self.steps)

    @property
    def end(self) -> int:
        """The place of the next token, in all rows."""
        return self.rows.longest + self.steps

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, [B]."""
        lengths: np.ndarray = self.rows.lengths + self.steps
        return lengths

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> KV:
        """Takes one more token of every row in; keys and values to attend to."""
        place = self.end
        if place == self.kv[0].shape[2]:
            self.kv = _with_room(self.kv[0]), _with_room(self.kv[1])
        for kept, new in zip(self.kv, (keys, values), strict=True):
            kept[:, :, place : place + 1] = new
        self.steps += 1
        return self.kv[0][:, :, : place + 1], self.kv[1][:, :, : place + 1]

    def make_mask(
        self, N: int, return_array: bool = False, window_size: int | None = None
    ) -> mx.array | str | None:
        """What mlx-lm's attention wants for the next token of each row."""
        return self.rows.mask(self.steps, N, window_size or self.window)

    def keep(self, numbers: mx.array, rows: DecodeRows) -> None:
        """Only those rows, [K], whose lengths are `rows`; and no place where none of them is."""
        first = self.end - rows.longest
        self.kv = self.kv[0][:, :, first:][numbers], self.kv[1][:, :, first:][numbers]
        self.rows, self.steps = rows, 0

    def join(self, other: "DecodeCache", rows: DecodeRows) -> None:
        """The rows of another cache behind these; `rows` are the lengths of all."""
        ends = (self.end, other.end)
        self.kv = (
            _one_below_the_other((self.kv[0], other.kv[0]), ends),
            _one_below_the_other((self.kv[1], other.kv[1]), ends),
        )
        self.rows, self.steps = rows, 0


def _with_room(rows: mx.array) -> mx.array:
    """`rows` [B, H, T, D] with places for some more tokens behind."""
    B, H, _, D = rows.shape
    return mx.concatenate([rows, mx.zeros((B, H, ROOM, D), rows.dtype)], axis=2)


def _one_below_the_other(parts: tuple[mx.array, mx.array], ends: tuple[int, int]) -> mx.array:
    """Rows [A, H, T, D] and [B, H, S, D], moved to end at one place, with room behind it."""
    (A, H, _, D), B = parts[0].shape, parts[1].shape[0]
    end = max(ends)
    joined = mx.zeros((A + B, H, end + ROOM, D), parts[0].dtype)
    joined[:A, :, end - ends[0] : end] = parts[0][:, :, : ends[0]]
    joined[A:, :, end - ends[1] : end] = parts[1][:, :, : ends[1]]
    return joined


def behind_prompts(prefix: KV, lengths: Sequence[int], owner: Sequence[int]) -> KV:
    """What rows begin with, [B, H, T, D]: row b behind prompt `owner[b]` of those in `prefix`.

    `prefix` [P, H, T, D] is padded behind each prompt to the longest of the `lengths`; the rows
    have the padding in front.
    """
    rows = mx.array(list(owner))
    longest = int(prefix[0].shape[2])
    if min(lengths) == longest:
        return prefix[0][rows], prefix[1][rows]
    missing = longest - np.array(lengths, np.int32)
    places = mx.array(np.maximum(np.arange(longest) - missing[:, None], 0)[:, None, :, None])
    return (
        mx.take_along_axis(prefix[0], places, axis=2)[rows],
        mx.take_along_axis(prefix[1], places, axis=2)[rows],
    )


# --- all layers


def keep_rows(caches: Sequence[Any], numbers: Sequence[int]) -> None:
    """Drops every row that is not among `numbers`, of the caches of all layers."""
    kept = mx.array(list(numbers))
    rows: DecodeRows | None = None
    for part in parts_of(caches):
        if isinstance(part, DecodeCache):
            rows = rows or DecodeRows(part.lengths[list(numbers)].tolist())
            part.keep(kept, rows)
        else:
            change_rows(part, lambda a: a[kept])


def join_rows(caches: Sequence[Any], others: Sequence[Any]) -> None:
    """Adds the rows of the `others`, layer by layer, and empties those as it goes."""
    rows: DecodeRows | None = None
    for part, other in zip(parts_of(caches), parts_of(others), strict=True):
        if isinstance(part, DecodeCache):
            rows = rows or DecodeRows([*part.lengths, *other.lengths])
            part.join(other, rows)
            del other.kv
            # At once, so that one layer at most is there twice.
            mx.eval(part.kv)
        else:
            pairs = zip(part.cache, other.cache, strict=True)
            part.cache = [mx.concatenate([mine, theirs]) for mine, theirs in pairs]


def parts_of(caches: Sequence[Any]) -> list[Any]:
    """The caches of all layers, and those that some of them hold together, in order."""
    found: list[Any] = []
    for cache in caches:
        found += parts_of(cache.caches) if isinstance(cache, CacheList) else [cache]
    return found


def change_rows(cache: Any, change: Callable[[mx.array], mx.array]) -> None:
    """Applies `change` to every array [B, ...] that a cache of mlx-lm holds, in place."""
    for name, value in vars(cache).items():
        if isinstance(value, mx.array) and value.ndim > 0:
            setattr(cache, name, change(value))
        elif isinstance(value, list):
            setattr(cache, name, [change(v) if isinstance(v, mx.array) else v for v in value])
