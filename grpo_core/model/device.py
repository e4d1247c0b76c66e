"""The device that computes: which one, how much memory it advises, and how much was in use.

    python -m grpo_core.model.device     what there is, as JSON

MLX's Metal build says that Metal is available on every Mac, also where no device can be had
(mlx #3148), so it is the device that is asked. The wired limit stays off: with it set, Macs have
panicked (mlx #3186, #3346), and a killed process can leak what it wired.
"""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import mlx.core as mx

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ConfigError
from grpo_core.run.device_choice import CPU, ENV_DEVICE, GPU, wanted_device

GB = 10**9

# Of what the device advises; beyond it a Mac begins to swap (the field's customary share). On a
# small Mac the system and its programs take a larger part of what is advised.
ADVISED_SHARE, ADVISED_SHARE_SMALL = 0.85, 0.7
SMALL_BYTES = 24 * 2**30

# MLX's CUDA backend keeps buffers until the kernels behind them have run: on an H200 the peak of
# 0.5 B with adapters, 8 completions of 256 tokens, was 1.7 times the estimate.
CUDA_EXCESS = 1.75

# MLX's own cache limit is all of the memory limit, which other programs need as well.
CACHE_SHARE, CACHE_LEAST, CACHE_MOST = 0.1, GB // 2, 8 * GB


def use_device(say: Callable[[str], None]) -> None:
    """Compute on the device that GRPO_DEVICE names; before anything else is computed.

    Without it on what MLX takes, but for a GPU that cannot be had: then on the CPU, which is said.
    ConfigError where a GPU is wanted that is not there.
    """
    wanted = wanted_device()
    fault = "" if wanted == CPU else _gpu_fault()
    if wanted == GPU and fault:
        raise ConfigError(f"{ENV_DEVICE} = {GPU!r}: {fault}; {CPU!r} trains on the CPU")
    if mx.default_device() != mx.cpu and (fault or wanted == CPU):
        say(f"[device] {fault or f'{ENV_DEVICE}={CPU}'}: training on the CPU")
        mx.set_default_device(mx.Device(mx.cpu))


def _gpu_fault() -> str:
    """Why no GPU can be used here, or nothing."""
    if not mx.is_available(mx.gpu):
        return "MLX as it is installed here has no GPU"
    try:
        mx.device_info(mx.Device(mx.gpu))
    except RuntimeError as error:
        return f"there is no GPU that can be used ({error})"
    return ""


def device_name() -> str:
    """What computes, as it is recorded with a run: `cpu`, or `gpu` with its name."""
    if mx.default_device() == mx.cpu:
        return CPU
    name = mx.device_info().get("device_name", "")
    return f"{GPU} ({name})" if name else GPU


def apply_limits(cfg: MLXGRPOConfig) -> None:
    """Set MLX's memory limit and the limit of its buffer cache."""
    info = _gpu_info()
    if cfg.memory_limit_gb > 0:
        mx.set_memory_limit(round(cfg.memory_limit_gb * GB))
    elif room := room_bytes(info):
        mx.set_memory_limit(room)
    if cfg.cache_limit_gb >= 0:
        mx.set_cache_limit(round(cfg.cache_limit_gb * GB))
    elif cache := cache_bytes(info):
        mx.set_cache_limit(cache)


def gpu_room_bytes() -> int:
    """What a run may take of the GPU's memory; 0 where the device advises nothing, as a CPU."""
    return room_bytes(_gpu_info())


def planned_bytes() -> int:
    """What the estimate of a run may come to on this GPU, so that the run stays within its room."""
    info = _gpu_info()
    # Metal says what it advises, CUDA only what there is.
    is_cuda = "max_recommended_working_set_size" not in info
    return round(room_bytes(info) / (CUDA_EXCESS if is_cuda else 1))


def room_bytes(info: Mapping[str, Any]) -> int:
    """What a run may take, by what MLX says of a device: 85% of what it advises.

    70% on a machine with less than 24 GB; 0 where it advises nothing. CUDA advises nothing and says
    how much memory the GPU has: a run may take 85% of that.
    """
    is_small = int(info.get("memory_size", SMALL_BYTES)) < SMALL_BYTES
    return round((ADVISED_SHARE_SMALL if is_small else ADVISED_SHARE) * _advised(info))


def cache_bytes(info: Mapping[str, Any]) -> int:
    """The room for buffers to be used again: a tenth of what is advised, 0.5 to 8 GB; or 0."""
    advised = _advised(info)
    return min(CACHE_MOST, max(CACHE_LEAST, round(CACHE_SHARE * advised))) if advised else 0


def _advised(info: Mapping[str, Any]) -> int:
    """What a run is to stay below, as Metal says; the whole memory of a CUDA GPU."""
    return int(info.get("max_recommended_working_set_size", info.get("total_memory", 0)))


def _gpu_info() -> Mapping[str, Any]:
    """What MLX says of the GPU that computes; nothing where the CPU does."""
    return {} if mx.default_device() == mx.cpu else mx.device_info()


def peak_bytes() -> int:
    """The most memory in use at once since `reset_peak`."""
    return int(mx.get_peak_memory())


def reset_peak() -> None:
    """Begin a new measurement of the peak."""
    mx.reset_peak_memory()


def main() -> int:
    """For `grpo-sweep doctor`, whose own process never loads mlx: the device as a line of JSON."""
    said: list[str] = []
    try:
        use_device(said.append)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    # Not every backend can say all; what it is called is for people only.
    info = mx.device_info()
    found = {
        "device": CPU if mx.default_device() == mx.cpu else GPU,
        "name": str(info.get("device_name", "")),
        "advised_bytes": _advised(info),
        "room_bytes": gpu_room_bytes(),
        "said": " ".join(said),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
