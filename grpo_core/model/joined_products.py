"""Linear layers of one input as one product: q, k and v; gate and up.

Only where nothing is learnt meanwhile, only layers in fp32, and only in small models, since the
joined weights are a copy. Under adapters it is their bases that are joined.
"""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.tuner.lora import LoRALinear

# Layers that mlx-lm's models apply to one input, one after the other.
SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))

# It pays where layers are so small that each product costs its overhead.
JOINED_BYTES = 32 * 10**6

Call = Callable[[nn.Linear, mx.array], mx.array]


def joined_call(model: nn.Module, plain: Call) -> Call:
    """`nn.Linear.__call__` that computes siblings together; `plain` is the layers' own."""
    groups = list(_sibling_layers(model))
    if sum(layer.weight.nbytes for group in groups for layer in group) > JOINED_BYTES:
        return plain
    parts: dict[int, tuple[Product, int]] = {}
    for group in groups:
        product = Product(group)
        parts |= {id(layer): (product, number) for number, layer in enumerate(group)}

    def call(layer: nn.Linear, x: mx.array) -> mx.array:
        product, number = parts.get(id(layer), (None, 0))
        return plain(layer, x) if product is None else product.part(x, number)

    return call


def _sibling_layers(model: nn.Module) -> Iterator[list[nn.Linear]]:
    """Plain linear layers in fp32 that stand side by side."""
    for module in model.modules():
        for names in SIBLINGS:
            layers = [_base(module.get(name)) for name in names]
            if all(type(layer) is nn.Linear for layer in layers) and _can_join(layers):
                yield layers


def _base(layer: Any) -> Any:
    return layer.linear if type(layer) is LoRALinear else layer


def _can_join(layers: list[nn.Linear]) -> bool:
    with_bias = {"bias" in layer for layer in layers}
    return len(with_bias) == 1 and all(layer.weight.dtype == mx.float32 for layer in layers)


class Product:
    """Several linear layers on one input, computed when the first of them is asked for."""

    def __init__(self, layers: list[nn.Linear]) -> None:
        self._weight = mx.concatenate([layer.weight for layer in layers]).T
        self._bias = (
            mx.concatenate([layer.bias for layer in layers]) if "bias" in layers[0] else None
        )
        mx.eval(self._weight, self._bias)
        self._cuts = np.cumsum([layer.weight.shape[0] for layer in layers])[:-1].tolist()
        self._input: mx.array | None = None
        self._parts: list[mx.array] = []

    def part(self, x: mx.array, number: int) -> mx.array:
        """What layer `number` makes of `x`."""
        if x is not self._input:
            product = (
                x @ self._weight if self._bias is None else mx.addmm(self._bias, x, self._weight)
            )
            parts: Any = mx.split(product, self._cuts, axis=-1)
            self._input, self._parts = x, parts
        found = self._parts[number]
        if number == len(self._cuts):
            self._input, self._parts = None, []
        return found
