"""An mlx-lm model split in two: the trunk, and the vocabulary head.

GRPO asks for logits at a few positions only, so the trunk (ids -> hidden states) and the head
(hidden states -> logits) run apart. Models are mlx-lm's, unchanged; a model that cannot be cut is
all trunk. How a group shares its prompt is in `shared_prefix`.
"""

import copy
from functools import cached_property
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

# How mlx-lm's models call the part before the head.
TRUNK_NAMES = ("model", "transformer", "backbone")

Params = dict[str, mx.array]


class SplitModel:
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

    @cached_property
    def head_names(self) -> tuple[str, ...]:
        """The trainable parameters that the head depends on, found by a gradient of the head.

        Names would not do: with tied weights it is the embedding, in some models more. Ask before
        any gradient is being taken, as the answer is evaluated.
        """
        trainable: Params = dict(tree_flatten(self.model.trainable_parameters()))
        blocks = [dict(tree_flatten(layer.parameters())) for layer in self.model.layers]
        inside = {id(p) for block in blocks for p in block.values()}
        outside = {name: p for name, p in trainable.items() if id(p) not in inside}
        if not outside or not self.is_split:
            return ()
        probe = mx.random.normal((2, self._width()), key=mx.random.key(0))

        def total(params: Params) -> mx.array:
            self.model.update(tree_unflatten(list(params.items())))
            return (self.head(probe).astype(mx.float32) ** 2).sum()

        grads = mx.grad(total)(outside)
        self.model.update(tree_unflatten(list(outside.items())))
        return tuple(name for name, grad in grads.items() if bool(mx.any(grad != 0).item()))

    def head_parameters(self) -> Params:
        """The head's trainable parameters as the model holds them now."""
        trainable: Params = dict(tree_flatten(self.model.trainable_parameters()))
        return {name: trainable[name] for name in self.head_names if name in trainable}

    def _width(self) -> int:
        return int(self.trunk(mx.zeros((1, 1), mx.int32)).shape[-1])

    def check(self, ids: mx.array) -> str:
        """Gives the cut up if head after trunk is not the model, tried on `ids` [B, T].

        Why it is given up, or was never found; empty where it holds.
        """
        if not self.is_split:
            return "its parts have names of their own"
        fault = self._fault(ids)
        if fault:
            self._name = ""
        return fault

    def _fault(self, ids: mx.array) -> str:
        whole = self.model(ids)
        try:
            joined = self.head(self.trunk(ids))
        except (AttributeError, TypeError, ValueError, IndexError) as error:
            return f"its trunk or head is called in a way of its own: {type(error).__name__}"
        if whole.shape != joined.shape:
            return "put together they are not the model"
        if mx.array_equal(whole, joined).item():
            return ""
        apart: Any = mx.abs(whole.astype(mx.float32) - joined.astype(mx.float32)).max().item()
        return f"put together they are not the model: logits are up to {apart:.1e} apart"


class _Passthrough:
    """Stands in for the trunk, so that the model's own code runs its head on hidden states."""

    def __init__(self, trunk: nn.Module) -> None:
        self._trunk = trunk

    def __call__(self, *args: mx.array, **kwargs: mx.array) -> mx.array:
        """The hidden states, which stand first, however they are named."""
        return next(iter([*args, *kwargs.values()]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trunk, name)


def _find_trunk(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that owns the trunk, and the trunk's name in it; "" where there is none."""
    outer = model
    while isinstance(outer.get("language_model"), nn.Module):
        outer = outer.language_model
    name = next((n for n in TRUNK_NAMES if isinstance(outer.get(n), nn.Module)), "")
    return outer, name
