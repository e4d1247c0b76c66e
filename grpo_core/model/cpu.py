"""Arithmetic that suits MLX's CPU backend on Linux, which is where demo, tests and CI run.

Its `exp` emulates a fused multiply-add: 19 ns an element, where `power` takes 9 and is no less
exact. Matrix products are led to a better library by the room `blas`. On a GPU or another system
nothing is changed.
"""

import math
import platform

import mlx.core as mx

# e to the power of more than 88 is above what fp32 holds; with a little room.
_LARGEST_SCALE = 80.0


def has_slow_exp() -> bool:
    """Whether this machine's `exp` is the slow one."""
    return bool(mx.default_device() == mx.cpu) and platform.system() == "Linux"


def exp(x: mx.array, scale: float = 1.0) -> mx.array:
    """e to the power of `scale * x`, by `power` where that is faster; without a gradient."""
    if has_slow_exp():
        if scale > _LARGEST_SCALE:
            x, scale = x * scale, 1.0
        return mx.power(mx.array(math.exp(scale), x.dtype), x)
    return mx.exp(x if scale == 1 else x * scale)
