"""When mlx-lm's models compute with few operations a layer.

On every device, while nothing is learnt, the adapters of a block are joined (`joined_adapters`).
The rest is for MLX's CPU backend, in fp32: on a GPU attention, norm and rotary embedding are one
kernel each of `mx.fast`; on the CPU each falls apart into up to thirty small operations at some
microseconds each, and its exponentials are slow (see `cpu`). Within `lean_operations` the models
get those of `lean_kernels` instead; tables and masks are made once a step and not in each layer.
What is unusual (16 bits, sinks, partly rotated heads) goes to MLX's own.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models import activations
from mlx_lm.tuner.lora import LoRALinear

from grpo_core.model.cpu import has_slow_exp
from grpo_core.model.joined_adapters import joined_adapters
from grpo_core.model.joined_products import joined_call
from grpo_core.model.lean_kernels import (
    angles,
    as_sum,
    attention,
    causal,
    plain_norm,
    plain_swiglu,
    rms_norm,
    rotate,
    swap,
    swiglu,
    turns,
    widened,
)

# Tables that are kept: a model has one or two kinds of rotary embedding.
KEPT_TABLES = 8

# Positions whose tables are made at once.
POSITIONS = 16

Change = tuple[Any, str, Any]
"""What holds a name, the name, and what it stands for meanwhile."""


@contextmanager
def lean_operations(model: nn.Module, gradient: bool) -> Iterator[None]:
    """Within it the model's layers compute with few operations.

    Without a `gradient` the weights must stay as they are: some of them are joined.
    """
    changes: list[Change] = []
    if not gradient:
        joined = joined_adapters(model, LoRALinear.__call__)
        changes.append((LoRALinear, "__call__", joined))
    if has_slow_exp():
        changes += [*_of_mlx(gradient), *_of_swiglu(model, gradient)]
        if not gradient:
            changes.append((nn.Linear, "__call__", joined_call(model, nn.Linear.__call__)))
    with _changed(changes):
        yield


@contextmanager
def _changed(changes: list[Change]) -> Iterator[None]:
    before = [(holder, name, getattr(holder, name)) for holder, name, _ in changes]
    try:
        for holder, name, new in changes:
            setattr(holder, name, new)
        yield
    finally:
        for holder, name, old in before:
            setattr(holder, name, old)


def _of_mlx(gradient: bool) -> Iterator[Change]:
    """In `mx.fast`, where every model finds them."""
    fast: Any = mx.fast
    rope, rms, attend = fast.rope, fast.rms_norm, fast.scaled_dot_product_attention
    tables = Tables(gradient)
    wide: dict[int, tuple[mx.array, mx.array]] = {}

    def lean_norm(x: mx.array, weight: mx.array | None, eps: float, **more: Any) -> mx.array:
        if more or weight is None or not _all_fp32(x, weight):
            own: mx.array = rms(x, weight, eps, **more)
            return own
        if gradient:
            return rms_norm(x, weight, eps)
        if id(weight) not in wide:
            wide[id(weight)] = widened(weight), weight  # kept alive, as its identity is the key
        return plain_norm(x, wide[id(weight)][0], eps)

    yield fast, "rms_norm", lean_norm
    yield fast, "rope", lambda x, dims, **how: tables.rotated(x, dims, rope, **how)
    yield (
        fast,
        "scaled_dot_product_attention",
        lambda q, k, v, **how: tables.attended(q, k, v, attend, **how),
    )


def _of_swiglu(model: nn.Module, gradient: bool) -> Iterator[Change]:
    """In the modules of the model's layers, each of which has imported it for itself."""

    def lean_swiglu(by: mx.array, x: mx.array) -> mx.array:
        if not _all_fp32(by, x):
            own: mx.array = nn.silu(by) * x
            return own
        return swiglu(by, x) if gradient else plain_swiglu(by, x)

    for name in {type(layer).__module__ for layer in model.modules()}:
        if getattr(sys.modules[name], "swiglu", None) is activations.swiglu:
            yield sys.modules[name], "swiglu", lean_swiglu


def _all_fp32(*arrays: mx.array) -> bool:
    return all(array.dtype == mx.float32 for array in arrays)


class Tables:
    """Cosines, sines and masks, made for the first layer and taken again by the others."""

    def __init__(self, gradient: bool = False) -> None:
        self._gradient = gradient
        self._kept: dict[Any, tuple[Any, Any]] = {}

    def _once(self, key: Any, alive: Any, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once; `alive` holds the arrays whose identity is in the key."""
        found = self._kept.pop(key, None) or (make(), alive)
        if len(self._kept) == KEPT_TABLES:
            del self._kept[next(iter(self._kept))]  # that which has not been asked for the longest
        self._kept[key] = found
        return found[0]

    def rotated(
        self,
        x: mx.array,
        dims: int,
        other: Any,
        *,
        traditional: bool,
        base: float | None,
        scale: float,
        offset: Any,
        freqs: mx.array | None = None,
    ) -> mx.array:
        """`mx.fast.rope`: the halves of each head (or every two numbers) turned by its position."""
        if dims != x.shape[-1] or x.ndim != 4 or not _all_fp32(x):
            own: mx.array = other(
                x, dims, traditional=traditional, base=base, scale=scale, offset=offset, freqs=freqs
            )
            return own
        length = x.shape[2]

        def table(first: Any, length: int) -> tuple[mx.array, mx.array, mx.array]:
            both = angles(dims, traditional, base, scale, first, length, freqs)
            return *both, swap(dims, traditional)

        kind = (dims, traditional, base, scale, id(freqs))
        if length == 1 and isinstance(offset, int):  # one position for all rows: a single matrix
            first = offset - offset % POSITIONS
            some = self._once((*kind, first), freqs, lambda: turns(*table(first, POSITIONS)))
            turn = self._once((*kind, "at", offset), freqs, lambda: some[offset - first])
            turned: mx.array = x @ turn
            return turned
        at = (offset,) if isinstance(offset, int) else ("array", id(offset))
        parts = self._once((*kind, length, *at), (offset, freqs), lambda: table(offset, length))
        all_turned: Any = rotate(x, *parts)
        return all_turned  # type: ignore[no-any-return]

    def attended(
        self, q: mx.array, k: mx.array, v: mx.array, other: Any, *, scale: float, **how: Any
    ) -> mx.array:
        """`mx.fast.scaled_dot_product_attention`."""
        mask = how.pop("mask", None)
        hides = isinstance(mask, str) or (mask is not None and mask.dtype == mx.bool_)
        # Of compressed keys (DeepSeek) a part of the scores comes as the mask, and has a gradient.
        has_own_gradient = self._gradient and mask is not None and not hides
        is_unusual = any(value is not None for value in how.values()) or not _all_fp32(q, k, v)
        if is_unusual or has_own_gradient:
            own: mx.array = other(q, k, v, scale=scale, mask=mask, **how)
            return own
        T, S = q.shape[2], k.shape[2]
        if isinstance(mask, str):
            mask = self._once(("causal", T, S), None, lambda: causal(T, S))
        elif mask is not None:
            mask = self._once(("mask", id(mask)), mask, lambda: as_sum(mask))
        return attention(q, k, v, scale, mask, hides)
