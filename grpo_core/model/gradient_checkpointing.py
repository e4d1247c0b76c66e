"""Layers that keep no activations: the backward pass computes them again, layer by layer.

mlx-lm's own version patches a class for the whole process, knows nothing of caches and gives no
gradient to what a layer takes from an earlier one besides its input (shared keys and values, first
values, inputs per layer); this one puts everything back and lets all gradients through.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from grpo_core.model.trunk_head import Params

# Recomputed and kept activations give the same gradient but for rounding; what a layer hides from
# its arguments shows as 0.1 and more.
TOLERANCE_FP32 = 1e-3
TOLERANCE = 3e-2


@contextmanager
def checkpointed(model: nn.Module) -> Iterator[None]:
    """Within it the layers keep no activations: the backward pass computes them again.

    Patches the layers' classes, as calls are looked up there, and puts them back.
    All that can have a gradient goes in and out as arguments, what caches hold too, since
    `mx.checkpoint` differentiates by nothing else; and a layer that is run again finds its caches
    as they were.
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
    def run(layer: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = (args, kwargs)
        caches = _caches(given)
        before = [_held(cache) for cache in caches]
        after: list[Any] = []

        def inner(params: Any, floats: list[mx.array]) -> Any:
            layer.update(params)
            (own_args, own_kwargs), held = _with_arrays((given, before), floats, _is_float)
            _hold(caches, held)
            out = call(layer, *own_args, **own_kwargs)
            after[:] = [_held(cache) for cache in caches]
            return out, _arrays(after, _is_array)

        floats = _arrays((given, before), _is_float)
        out, left = mx.checkpoint(inner)(layer.trainable_parameters(), floats)
        _hold(caches, _with_arrays(after, left, _is_array))
        return out

    return run


def _caches(given: Any) -> list[Any]:
    """The objects among a layer's arguments that may hold arrays, and those within them."""
    found: list[Any] = []

    def look(leaf: Any) -> None:
        if hasattr(leaf, "__dict__") and not isinstance(leaf, mx.array | nn.Module):
            found.append(leaf)
            tree_map(look, _held(leaf))

    tree_map(look, given)
    return found


def _held(cache: Any) -> dict[str, Any]:
    """What an object holds, in lists and tuples of its own that it will not change."""
    held: dict[str, Any] = tree_map(lambda leaf: leaf, dict(vars(cache)))
    return held


def _hold(caches: list[Any], held: list[dict[str, Any]]) -> None:
    for cache, own in zip(caches, held, strict=True):
        cache.__dict__.update(own)


def _arrays(tree: Any, wanted: Callable[[Any], bool]) -> list[mx.array]:
    """The wanted arrays of a tree, in a fixed order."""
    found: list[mx.array] = []
    tree_map(lambda leaf: found.append(leaf) if wanted(leaf) else None, tree)
    return found


def _with_arrays(tree: Any, arrays: list[mx.array], wanted: Callable[[Any], bool]) -> Any:
    """The same tree with those arrays in the places of the wanted ones."""
    given = iter(arrays)
    return tree_map(lambda leaf: next(given) if wanted(leaf) else leaf, tree)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, mx.array)


def _is_float(leaf: Any) -> bool:
    """Whether it can have a gradient."""
    return _is_array(leaf) and bool(mx.issubdtype(leaf.dtype, mx.floating))


def keeps_gradient(model: nn.Module) -> bool:
    """Whether recomputed layers give the plain gradient, tried on a few tokens."""
    ids = mx.arange(1, 9)[None]
    plain = probe_gradient(model, ids)
    with checkpointed(model):
        again = probe_gradient(model, ids)
    apart = mx.stack([_squares(again[name] - grad) for name, grad in plain.items()]).sum()
    whole = mx.stack([_squares(grad) for grad in plain.values()]).sum()
    in_fp32 = all(grad.dtype == mx.float32 for grad in plain.values())
    tolerance = TOLERANCE_FP32 if in_fp32 else TOLERANCE
    return bool((apart <= tolerance**2 * whole).item())  # NaN is no agreement


def probe_gradient(model: nn.Module, ids: mx.array) -> Params:
    """Of some logits on `ids` [1, T] by every trained weight, evaluated."""
    weights: Params = dict(tree_flatten(model.trainable_parameters()))

    def loss(weights: Params) -> mx.array:
        model.update(tree_unflatten(list(weights.items())))
        logits: mx.array = model(ids).astype(mx.float32)
        return (logits[..., ::3] ** 2).mean()

    try:
        grads: Params = mx.grad(loss)(weights)
        mx.eval(grads)
    finally:
        model.update(tree_unflatten(list(weights.items())))
    return grads


def _squares(array: mx.array) -> mx.array:
    return (array.astype(mx.float32) ** 2).sum()
