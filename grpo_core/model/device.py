"""The device's memory: MLX's limits as configured, and how much was in use.

The wired limit stays off: with it set, Macs have panicked (mlx #3186, #3346), and a killed process
can leak what it wired.
"""

import mlx.core as mx

from grpo_core.config import MLXGRPOConfig

GB = 10**9

# Of what the device advises; beyond it a Mac begins to swap (the field's customary share).
ADVISED_SHARE = 0.85

# MLX's own cache limit is all of the memory limit, which other programs need as well.
AUTO_CACHE_BYTES = 2 * GB


def apply_limits(cfg: MLXGRPOConfig) -> None:
    """Set MLX's memory limit and the limit of its buffer cache."""
    advised = advised_bytes()
    if cfg.memory_limit_gb > 0:
        mx.set_memory_limit(round(cfg.memory_limit_gb * GB))
    elif advised:
        mx.set_memory_limit(round(ADVISED_SHARE * advised))
    if cfg.cache_limit_gb >= 0:
        mx.set_cache_limit(round(cfg.cache_limit_gb * GB))
    elif advised:
        mx.set_cache_limit(AUTO_CACHE_BYTES)


def advised_bytes() -> int:
    """What the GPU advises as a working set; 0 on the CPU, which advises nothing."""
    if not mx.metal.is_available():
        return 0
    return int(mx.device_info()["max_recommended_working_set_size"])


def peak_bytes() -> int:
    """The most memory in use at once since `reset_peak`."""
    return int(mx.get_peak_memory())


def reset_peak() -> None:
    """Begin a new measurement of the peak."""
    mx.reset_peak_memory()
