"""The rate of matrix products on the shapes of an update, layout by layout.

A linear layer's weight W is [outputs, inputs]; forward is X W', the gradients are G W and G' X. The
layouts: both sides row by row (`nn`), the right side transposed (`nt`), the left side (`tn`).
"""

import statistics
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from benchmarks._trainer.flops import linear_shapes

REPEATS = 7
LEAST_S = 0.01
SUSTAINED_S = 0.4


def clock_of_device() -> Callable[[], float]:
    """Of seconds: the processor's on the CPU, which other programs disturb less than the wall's."""
    return time.process_time if mx.default_device() == mx.cpu else time.perf_counter


def rate(product: Callable[[], mx.array], flops: int) -> float:
    """The median rate of a product, FLOP/s, after a warm-up."""
    clock = clock_of_device()
    mx.eval(product())
    began = clock()
    mx.eval(product())
    count = max(1, int(LEAST_S / max(clock() - began, 1e-6)))
    rates = []
    for _ in range(REPEATS):
        began = clock()
        for _ in range(count):
            mx.eval(product())
        rates.append(flops * count / (clock() - began))
    return statistics.median(rates)


@dataclass(frozen=True)
class Product:
    """A matrix product of the update, ready to run."""

    layout: str
    weight: int  # how often it counts, by its floating-point operations
    flops: int
    run: Callable[[], mx.array]

    def rate(self) -> float:
        """FLOP/s."""
        return rate(self.run, self.flops)

    def sustained(self) -> float:
        """FLOP/s over a longer while, as an update goes through the machine's ups and downs."""
        clock = clock_of_device()
        began, count = clock(), 0
        while clock() - began < SUSTAINED_S:
            mx.eval(self.run())
            count += 1
        return self.flops * count / (clock() - began)


def products(config: Mapping[str, Any], rows: int) -> list[Product]:
    """Every product of the update, by layer size and layout."""
    dtype = getattr(mx, config["torch_dtype"])
    sizes = Counter(linear_shapes(config) * config["num_hidden_layers"])
    sizes[config["hidden_size"], config["vocab_size"]] += 1
    return [
        product
        for (inputs, outputs), times in sizes.items()
        for product in _layer(rows, inputs, outputs, times, dtype)
    ]


def _layer(rows: int, inputs: int, outputs: int, times: int, dtype: mx.Dtype) -> list[Product]:
    x, g, w = (
        mx.random.normal(shape).astype(dtype)
        for shape in ((rows, inputs), (rows, outputs), (outputs, inputs))
    )
    mx.eval(x, g, w)
    weight = times * inputs * outputs
    layouts: dict[str, Callable[[], mx.array]] = {
        "nt": lambda: x @ w.T,
        "nn": lambda: g @ w,
        "tn": lambda: g.T @ x,
    }
    flops = 2 * rows * inputs * outputs
    return [Product(layout, weight, flops, run) for layout, run in layouts.items()]


def fastest_and_own(found: list[Product]) -> tuple[Product, float]:
    """The fastest product, and the rate of those that the update does as a share of its rate."""
    rates = [(product, product.rate()) for product in found]
    fastest, best = max(rates, key=lambda pair: pair[1])
    weights = sum(product.weight for product, _ in rates)
    together = weights / sum(product.weight / r for product, r in rates)
    return fastest, together / best
