"""`python -m grpo_core.blas.measure`: how fast this machine's CPU multiplies fp32, as JSON.

For `grpo-sweep doctor`, whose own process never loads mlx. Where no BLAS is chosen (a GPU, macOS)
`blas` is empty and nothing is measured.
"""

import json
import sys
import time

import mlx.core as mx

from grpo_core.blas.library import find
from grpo_core.blas.session import install
from grpo_core.errors import ConfigError

SIZE = 512
_LEAST_S = 0.3


def main() -> int:
    """Print what there is and its rate with one thread, GFLOP/s; the exit code."""
    try:
        blas = install(find())
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if blas.library is not None and blas.library.set_threads is not None:
        blas.library.set_threads(1)
    rate = gflops() if blas.version else None
    print(json.dumps({"blas": blas.version, "why_own": blas.why_own, "gflops": rate}))
    return 0


def gflops() -> float:
    """The best rate of a product of 512 x 512 matrices: other programs only slow it down."""
    square = mx.full((SIZE, SIZE), 0.5)
    mx.eval(square @ square)
    best_s, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < _LEAST_S:
        start = time.perf_counter()
        mx.eval(square @ square)
        best_s = min(best_s, time.perf_counter() - start)
    return 2 * SIZE**3 / best_s / 1e9


if __name__ == "__main__":
    sys.exit(main())
