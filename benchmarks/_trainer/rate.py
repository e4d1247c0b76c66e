"""The rate of matrix products on the shapes of an update, layout by layout.

    python -m benchmarks._trainer.rate SHAPE ROWS

prints {"fastest": FLOP/s, "own": FLOP/s}. A linear layer's weight W is [outputs, inputs]; forward
is X W', the gradients are G W and G' X. The layouts: both sides row by row (`nn`), the right side
transposed (`nt`), the left side transposed (`tn`). `fastest` is the best median of any shape in
any layout; `own` is over the three products of every layer as the update does them.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable

import mlx.core as mx

from benchmarks._trainer.flops import linear_shapes
from benchmarks._trainer.work import COMMON, SHAPES
from grpo_core.cpu import is_slow_transposed

REPEATS = 7
LEAST_S = 0.01


def rate(product: Callable[[], mx.array], flops: int) -> float:
    """The median rate of a product, FLOP/s, after a warm-up."""
    mx.eval(product())
    began = time.perf_counter()
    mx.eval(product())
    count = max(1, int(LEAST_S / (time.perf_counter() - began)))
    rates = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(count):
            mx.eval(product())
        rates.append(flops * count / (time.perf_counter() - began))
    return statistics.median(rates)


def layer_rates(rows: int, inputs: int, outputs: int, dtype: mx.Dtype) -> dict[str, float]:
    """Of the products that a layer of that size does."""
    x, g, w = (
        mx.random.normal(shape).astype(dtype)
        for shape in ((rows, inputs), (rows, outputs), (outputs, inputs))
    )
    mx.eval(x, g, w)
    flops = 2 * rows * inputs * outputs
    return {
        "nt": rate(lambda: x @ w.T, flops),
        "laid_out": rate(lambda: x @ mx.contiguous(w.T), flops),
        "nn": rate(lambda: g @ w, flops),
        "tn": rate(lambda: g.T @ x, flops),
    }


def main() -> None:
    """Print the two rates."""
    config = {**COMMON, **SHAPES[sys.argv[1]]}
    rows = int(sys.argv[2])
    dtype = getattr(mx, config["torch_dtype"])
    layers = config["num_hidden_layers"]
    block = [(size, layers) for size in linear_shapes(config)]
    sizes = [*block, ((config["hidden_size"], config["vocab_size"]), 1)]
    known = {size: layer_rates(rows, *size, dtype) for size in {size for size, _ in sizes}}
    forward = "laid_out" if is_slow_transposed() else "nt"
    flops = seconds = 0.0
    for size, times in sizes:
        for name in (forward, "nn", "tn"):
            flops += times * size[0] * size[1]
            seconds += times * size[0] * size[1] / known[size][name]
    fastest = max(max(rates.values()) for rates in known.values())
    print(json.dumps({"fastest": fastest, "own": flops / seconds}))


if __name__ == "__main__":
    main()
