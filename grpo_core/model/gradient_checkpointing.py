"""Layers that keep no activations: the backward pass computes them again, layer by layer.

mlx-lm's own version patches a class for the whole process, knows nothing of caches and gives no
gradient to what a layer takes from an earlier one besides its input (shared keys and values, first
values, inputs per layer); this one puts everything back and lets all gradients through.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from grpo_core.model.shared_prefix import run_prefix, run_rows
from grpo_core.model.trunk_head import Params, SplitModel

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
        made: list[Any] = []

        def inner(params: Any, floats: list[mx.array]) -> list[mx.array]:
            layer.update(params)
            (own_args, own_kwargs), held = _with_arrays((given, before), floats, _is_float)
            _hold(caches, held)
            out = call(layer, *own_args, **own_kwargs)
            arrays, made[:] = _parted([out, [_held(cache) for cache in caches]])
            return arrays

        floats = _arrays((given, before), _is_float)
        arrays = mx.checkpoint(inner)(layer.trainable_parameters(), floats)
        out, after = _joined(made, arrays)
        _hold(caches, after)
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


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array stands in a list."""

    number: int


def _parted(tree: list[Any]) -> tuple[list[mx.array], list[Any]]:
    """The arrays of a tree, each once, and the tree with their places.

    What is returned and cached may be one array, and `mx.checkpoint` loses the gradient of an
    output that stands there twice.
    """
    places: dict[int, int] = {}
    arrays: list[mx.array] = []

    def part(leaf: Any) -> Any:
        if not _is_array(leaf):
            return leaf
        if id(leaf) not in places:
            places[id(leaf)] = len(arrays)
            arrays.append(leaf)
        return _Place(places[id(leaf)])

    parted: list[Any] = tree_map(part, tree)
    return arrays, parted


def _joined(tree: list[Any], arrays: list[mx.array]) -> list[Any]:
    """The tree of `_parted` with these arrays."""
    joined: list[Any] = tree_map(
        lambda leaf: arrays[leaf.number] if isinstance(leaf, _Place) else leaf, tree
    )
    return joined


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, mx.array)


def _is_float(leaf: Any) -> bool:
    """Whether it can have a gradient."""
    return _is_array(leaf) and bool(mx.issubdtype(leaf.dtype, mx.floating))


def keeps_gradient(split: SplitModel, shares_prefix: bool) -> bool:
    """Whether recomputed layers give the plain gradient, tried on a few tokens.

    As the update runs them: behind a prompt that rows share, if they do.
    """

    def logits() -> mx.array:
        ids = mx.arange(1, 9)[None]
        if not shares_prefix:
            return split.head(split.trunk(ids))
        prefix, last = run_prefix(split, ids[:, :4])
        return split.head(run_rows(split, prefix, last, ids[:, 4:], 5))

    plain = probe_gradient(split.model, logits)
    with checkpointed(split.model):
        again = probe_gradient(split.model, logits)
    apart = mx.stack([_squares(again[name] - grad) for name, grad in plain.items()]).sum()
    whole = mx.stack([_squares(grad) for grad in plain.values()]).sum()
    in_fp32 = all(grad.dtype == mx.float32 for grad in plain.values())
    tolerance = TOLERANCE_FP32 if in_fp32 else TOLERANCE
    return bool((apart <= tolerance**2 * whole).item())  # NaN is no agreement


def probe_gradient(model: nn.Module, logits: Callable[[], mx.array]) -> Params:
    """Of some of these logits by every trained weight, evaluated."""
    weights: Params = dict(tree_flatten(model.trainable_parameters()))

    def loss(weights: Params) -> mx.array:
        model.update(tree_unflatten(list(weights.items())))
        return (logits().astype(mx.float32)[..., ::3] ** 2).mean()

    try:
        grads: Params = mx.grad(loss)(weights)
        mx.eval(grads)
    finally:
        model.update(tree_unflatten(list(weights.items())))
    return grads


def _squares(array: mx.array) -> mx.array:
    return (array.astype(mx.float32) ** 2).sum()
