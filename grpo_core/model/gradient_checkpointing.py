"""Layers that keep no activations: the backward pass computes them again, layer by layer.

mlx-lm's own version patches a class for the whole process and knows nothing of caches; this one
puts everything back and lets gradients through a shared prompt's keys and values.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from grpo_core.model.shared_prefix import PrefixCache


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within it the layers keep no activations: the backward pass computes them again.

    Patches the layers' classes, as calls are looked up there, and puts them back.
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
