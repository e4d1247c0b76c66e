"""Whether a policy still gives numbers; where it does not, the first layer that is at fault.

A model that gives NaN decodes without complaint: every token is the first of the vocabulary, all
groups are equal, and nothing is learnt. So it is looked for wherever numbers are made.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from grpo_core.model.trunk_head import Params


def gives_numbers(logits: mx.array) -> bool:
    """Whether each row of `logits` [..., V] has a softmax; -inf for some tokens is no fault."""
    return bool(mx.isfinite(mx.logsumexp(logits.astype(mx.float32), axis=-1)).all().item())


def all_finite(arrays: Params) -> bool:
    """Whether every number is finite; one look at the device for all arrays."""
    return bool(mx.stack([mx.isfinite(array).all() for array in arrays.values()]).all().item())


def first_fault(model: nn.Module, ids: Sequence[int]) -> str:
    """Where numbers cease to be finite when `model` reads `ids`, in words for a message."""
    weights: Params = dict(tree_flatten(model.parameters()))
    for name, array in weights.items():
        if mx.issubdtype(array.dtype, mx.floating) and not all_finite({name: array}):
            return f"the weights of {name} are not finite"
    names = {id(module): name for name, module in model.named_modules()}
    seen: list[str] = []
    with _watched(model, names, seen):
        mx.eval(model(mx.array([list(ids)])))
    first = next((name for name in seen if name), "")
    dtypes = sorted({str(array.dtype).removeprefix("mlx.core.") for array in weights.values()})
    where = f"{first} is the first layer that is not finite" if first else "no layer is at fault"
    return f"{where} (its weights are; dtypes: {', '.join(dtypes)})"


@contextmanager
def _watched(model: nn.Module, names: dict[int, str], seen: list[str]) -> Iterator[None]:
    """Within it, layers whose output is not finite are noted in `seen`, innermost first.

    Patches the layers' classes, as calls are looked up there, and puts them back.
    """
    kinds = {type(module) for _, module in model.named_modules()}
    own = {kind: kind.__dict__["__call__"] for kind in kinds if "__call__" in kind.__dict__}
    for kind, call in own.items():
        kind.__call__ = _noting(call, names, seen)
    try:
        yield
    finally:
        for kind, call in own.items():
            kind.__call__ = call


def _noting(call: Any, names: dict[int, str], seen: list[str]) -> Any:
    def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        out = call(module, *args, **kwargs)
        flat: dict[str, Any] = dict(tree_flatten([out]))
        arrays = [a for a in flat.values() if isinstance(a, mx.array)]
        floats = [a for a in arrays if mx.issubdtype(a.dtype, mx.floating)]
        if not seen and any(not mx.isfinite(a).all().item() for a in floats):
            seen.append(names.get(id(module), ""))
        return out

    return run
