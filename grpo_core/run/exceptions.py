"""Raw exceptions of Python, MLX and Metal -> our tree of errors, with what to do about them.

The texts are those of MLX 0.32 on Metal, CUDA and CPU, and of Metal's command buffers. What is not
known here is a bug, and stays what it is.
"""

import errno

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import DiskFull, GPUFault, GRPOError, OutOfMemory

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# MLX's own file writer says this, without errno.
_DISK_TEXTS = ("[write] unable to write", "no space left on device", "disk quota exceeded")

_MEMORY_TEXTS = (
    "insufficient memory",
    "erroroutofmemory",
    "[metal::malloc]",
    "attempting to allocate",
    "out of memory",
    "std::bad_alloc",
    "unable to allocate",
    "resource limit",
    "cudaerrormemoryallocation",
)

_GPU_TEXTS = (
    "kiogpucommandbuffercallbackerror",
    "command buffer execution failed",
    "impactinginteractivity",
    "gpu hang",
    "gpu timeout",
    "innocent victim",
    "innocentvictim",
    "cudaerrorlaunchtimeout",
    "cudaerrorlaunchfailure",
    "unspecified launch failure",
    "illegal memory access",
)

_QUEUE_TEXTS = ("erroroutofmemory", "command buffer execution failed")


def explain(error: BaseException, cfg: MLXGRPOConfig | None = None) -> GRPOError | None:
    """The error of our tree that `error` amounts to; None for what is not known."""
    if isinstance(error, GRPOError):
        # A download or a cache that met a full disk: that is the news, wherever it happened.
        cause = error.__cause__
        return explain(cause) if cause is not None and _is_disk(cause) else error
    if _is_disk(error):
        assert isinstance(error, OSError)
        where = f"{error.filename}: " if error.filename else ""
        return DiskFull(f"{where}{error.strerror}; free some space, then run the same command")
    if isinstance(error, MemoryError):
        return OutOfMemory(_memory_words(str(error), cfg))
    if isinstance(error, RuntimeError | ValueError | OSError):
        return _by_text(error, cfg)
    return None


def _is_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK


def _by_text(error: Exception, cfg: MLXGRPOConfig | None) -> GRPOError | None:
    text = str(error).lower()
    if any(known in text for known in _DISK_TEXTS):
        return DiskFull(
            f"the disk is full, by MLX's word: {error}; free some space, then run the same command"
        )
    if any(known in text for known in _MEMORY_TEXTS):
        return OutOfMemory(_memory_words(str(error), cfg))
    if any(known in text for known in _GPU_TEXTS):
        return GPUFault(_gpu_words(str(error)))
    return None


def can_shrink(error: BaseException) -> bool:
    """Whether memory ran out before the device's own queue took anything.

    An error out of the queue poisons what the step has computed; nothing of it can be used again.
    """
    fault = explain(error)
    text = str(error).lower()
    return isinstance(fault, OutOfMemory) and not any(known in text for known in _QUEUE_TEXTS)


def _memory_words(text: str, cfg: MLXGRPOConfig | None) -> str:
    """What to lower, with the values as they are, the cheapest first."""
    words = f"out of memory: {text}" if text else "out of memory"
    if cfg is None:
        return words
    tries = []
    if cfg.micro_batch_size != 1:
        tries.append("micro_batch_size=1")
    if cfg.grad_checkpoint != "on":
        tries.append("grad_checkpoint=on")
    limit = cfg.completion_limit
    tries.append(f"num_generations below {cfg.num_generations}")
    tries.append(f"max_new_tokens below {limit}")
    if cfg.train_type == "full":
        tries.append("train_type=lora")
    return f"{words}; lower what it takes: {', or '.join(tries)}"


def _gpu_words(text: str) -> str:
    low = text.lower()
    if "timeout" in low or "interactivity" in low:
        return (
            f"the GPU's watchdog ended a command: {text}; run the same command again with the "
            "display asleep, with micro_batch_size=1, or with MLX_MAX_OPS_PER_BUFFER=10 set"
        )
    return f"the GPU failed: {text}; run the same command again, after a reboot if it stays"
