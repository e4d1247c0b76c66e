"""The model in two halves, trunk and vocabulary head, and the cache that shares a prompt.

GRPO asks for logits at a few positions only and samples every prompt many times. So the trunk
(ids -> hidden states) and the head (hidden states -> logits) run apart, and one set of prompt keys
and values serves all rows of a group, with gradients flowing into it. Models are mlx-lm's,
unchanged: the prompt comes in through their own `cache` argument. What the halves are used for
is the business of `rollout` and `logprobs`.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.models.base import create_causal_mask
from mlx_lm.models.cache import KVCache, make_prompt_cache

KV = tuple[mx.array, mx.array]
"""Keys and values of one layer, each [B, heads, T, D]."""

# How mlx-lm's models call the part before the head.
TRUNK_NAMES = ("model", "transformer", "backbone")

# Log-probs of the two ways to compute them may differ by this much in 16 bits; a wrong mask or
# position is off by whole nats. In fp32 the agreement is better than 1e-4.
PROBE_TOLERANCE = 0.5


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
            return create_causal_mask(N, self.offset)  # type: ignore[no-any-return]
        # "causal" aligns the last query with the last key, so the prefix is seen by all.
        return None if N == 1 else "causal"


def _in_front(prefix: mx.array, rows: mx.array) -> mx.array:
    """`prefix` [1, H, P, D] before each row of `rows` [B, H, T, D]."""
    shape = (rows.shape[0], *prefix.shape[1:])
    return mx.concatenate([mx.broadcast_to(prefix, shape), rows], axis=2)


class Halves:
    """Trunk and head of an mlx-lm model; nothing is copied, the weights stay where they are."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._outer, self._name = _find_trunk(model)

    @property
    def is_split(self) -> bool:
        """Whether the model could be cut; otherwise the trunk gives logits and the head nothing."""
        return bool(self._name)

    @property
    def layers(self) -> int:
        """The number of blocks."""
        return len(self.model.layers)

    def trunk(self, ids: mx.array, cache: list[Any] | None = None) -> mx.array:
        """`ids` [B, T] -> hidden states [B, T, D] (logits where the model cannot be cut)."""
        module = getattr(self._outer, self._name) if self._name else self.model
        hidden: mx.array = module(ids, cache=cache)
        return hidden

    def head(self, hidden: mx.array) -> mx.array:
        """`hidden` [..., D] -> logits [..., V], with whatever scaling the model does."""
        if not self._name:
            return hidden
        view = copy.copy(self._outer)
        setattr(view, self._name, _Passthrough(getattr(self._outer, self._name)))
        flat = hidden.reshape(1, -1, hidden.shape[-1])
        logits: mx.array = view(flat)
        return logits.reshape(*hidden.shape[:-1], -1)

    def head_parameters(self) -> dict[str, mx.array]:
        """The trainable parameters that the head uses, as the model holds them now."""
        if not self._name:
            return {}
        trainable = dict(tree_flatten(self.model.trainable_parameters()))
        inside = f"{self._prefix()}{self._name}."
        outside = {k: v for k, v in trainable.items() if not k.startswith(inside)}
        if outside or "lm_head" in self._outer:
            return outside
        return {k: v for k, v in trainable.items() if k.startswith(inside) and "embed" in k}

    def _prefix(self) -> str:
        return next((f"{k}." for k, m in self.model.named_modules() if k and m is self._outer), "")


class _Passthrough:
    """Stands in for the trunk, so that the model's own code runs its head on hidden states."""

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk

    def __call__(self, hidden: mx.array, *_: object, **__: object) -> mx.array:
        return hidden

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trunk, name)


def _find_trunk(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that owns the trunk, and the trunk's name in it; "" where there is none."""
    outer = model
    while isinstance(outer.get("language_model"), nn.Module):
        outer = outer.language_model
    name = next((n for n in TRUNK_NAMES if isinstance(outer.get(n), nn.Module)), "")
    return outer, name


def has_plain_caches(model: nn.Module) -> bool:
    """Whether every layer keeps plain keys and values: no sliding window, no recurrent state."""
    return all(type(cache) is KVCache for cache in make_prompt_cache(model))


def shares_prefix(halves: Halves, vocab_size: int) -> bool:
    """Whether the shared prompt gives this model's own log-probs, tried on eight tokens."""
    if not has_plain_caches(halves.model):
        return False
    ids = mx.arange(1, 9)[None] % vocab_size
    plain = _log_softmax(halves.model(ids))[0, 3:]
    try:
        prefix, last = run_prefix(halves, ids[:, :4])
        rows = mx.broadcast_to(ids[:, 4:], (2, 4))
        hidden = run_rows(halves, prefix, last, rows, 5)
    except (UnsupportedModel, AttributeError, TypeError, ValueError):
        # Whatever a model of another make does with a cache that is not its own.
        return False
    shared = _log_softmax(halves.head(hidden))[1]
    likely = plain > -20  # the far tail of 16-bit logits says nothing
    worst = mx.where(likely, mx.abs(plain - shared), 0).max()
    return bool((worst < PROBE_TOLERANCE).item())  # NaN is no agreement


def _log_softmax(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def run_prefix(halves: Halves, prompt: mx.array) -> tuple[list[KV], mx.array]:
    """`prompt` [1, P] -> keys and values of every layer, and the last hidden state [1, 1, D]."""
    caches = [PrefixCache() for _ in range(halves.layers)]
    hidden = halves.trunk(prompt, caches)
    fresh = [cache.fresh for cache in caches]
    if any(kv is None for kv in fresh):
        raise UnsupportedModel("a layer that leaves its cache alone")
    return [kv for kv in fresh if kv is not None], hidden[:, -1:]


def run_rows(
    halves: Halves, prefix: list[KV], last: mx.array, ids: mx.array, length: int
) -> mx.array:
    """Hidden states [B, C, D] that predict completions of `length` C tokens behind one prompt.

    `ids` [B, C - 1] are the completions without their last token; the first state is the
    prompt's last one, computed once and seen by all rows.
    """
    first = mx.broadcast_to(last, (ids.shape[0], *last.shape[1:]))
    if length == 1:
        return first
    caches = [PrefixCache(kv) for kv in prefix]
    return mx.concatenate([first, halves.trunk(ids, caches)], axis=1)


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within it the layers keep no activations: the backward pass computes them again.

    Patches the layers' classes, as `mx.checkpoint` has no hook of its own, and puts them back.
    Cached keys and values go in and out as arguments, since `mx.checkpoint` differentiates by
    nothing else.
    """
    originals = {kind: kind.__call__ for kind in {type(layer) for layer in model.layers}}
    for kind, call in originals.items():
        kind.__call__ = _checkpointed_call(call)
    try:
        yield
    finally:
        for kind, call in originals.items():
            kind.__call__ = call


def _checkpointed_call(call: Any) -> Any:
    def run(layer: nn.Module, x: mx.array, *args: Any, **kwargs: Any) -> Any:
        inputs = [*args, *kwargs.values()]
        cache = next((a for a in inputs if isinstance(a, PrefixCache)), None)

        def inner(params: Any, x: mx.array, prefix: list[mx.array]) -> Any:
            layer.update(params)
            if cache is None:
                return call(layer, x, *args, **kwargs), []
            cache.prefix = (prefix[0], prefix[1]) if prefix else None
            out = call(layer, x, *args, **kwargs)
            return out, list(cache.fresh or ())

        prefix = list(cache.prefix or ()) if cache is not None else []
        out, fresh = mx.checkpoint(inner)(layer.trainable_parameters(), x, prefix)
        if cache is not None:
            cache.prefix = (prefix[0], prefix[1]) if prefix else None
            cache.fresh = (fresh[0], fresh[1]) if fresh else None
        return out

    return run
