"""Out of memory, GPU faults, a full disk: raw exceptions -> our tree of errors, with advice.

Which texts mean what is in `protocol.py`. An exception that is not known is a bug, and stays what
it is.
"""

import errno

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import DiskFull, GPUFault, GRPOError, OutOfMemory
from grpo_core.run.protocol import MachineFault, machine_fault

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

# Said by the device's queue, not by the allocator.
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
        return OutOfMemory(_memory_message(str(error), cfg))
    if isinstance(error, RuntimeError | ValueError | OSError):
        return _by_text(error, cfg)
    return None


def _is_disk(error: BaseException | None) -> bool:
    return isinstance(error, OSError) and error.errno in _DISK


def _by_text(error: Exception, cfg: MLXGRPOConfig | None) -> GRPOError | None:
    fault = machine_fault(str(error))
    if fault is None:
        return None
    if fault is MachineFault.DISK:
        return DiskFull(f"the disk is full: {error}; free some space, then run the same command")
    if fault is MachineFault.MEMORY:
        return OutOfMemory(_memory_message(str(error), cfg))
    return GPUFault(_gpu_message(str(error), fault))


def can_shrink(error: BaseException) -> bool:
    """Whether memory ran out before the device's own queue took anything.

    An error out of the queue poisons what the step has computed; nothing of it can be used again.
    """
    fault = explain(error)
    text = str(error).lower()
    return isinstance(fault, OutOfMemory) and not any(known in text for known in _QUEUE_TEXTS)


def _memory_message(text: str, cfg: MLXGRPOConfig | None) -> str:
    """What to lower, with the values as they are, the cheapest first."""
    message = f"out of memory: {text}" if text else "out of memory"
    if cfg is None:
        return message
    tries = []
    if cfg.micro_batch_size != 1:
        tries.append("micro_batch_size=1")
    if cfg.grad_checkpoint != "on":
        tries.append("grad_checkpoint=on")
    tries.append(f"num_generations below {cfg.num_generations}")
    tries.append(f"max_new_tokens below {cfg.completion_limit}")
    if cfg.train_type == "full":
        tries.append("train_type=lora")
    return f"{message}; lower what it takes: {', or '.join(tries)}"


def _gpu_message(text: str, fault: MachineFault) -> str:
    """What helps: the same command goes on from the newest checkpoint in every case.

    The watchdog is that of mlx #3267, where neither fewer operations in a command nor smaller
    batches changed anything.
    """
    if fault is MachineFault.GPU_WATCHDOG:
        return (
            f"the GPU's watchdog ended a command: {text}; run the same command again while the "
            "display sleeps (on a Mac: pmset displaysleepnow; see mlx #3267)"
        )
    if fault is MachineFault.GPU_BUFFERS:
        return (
            f"too many GPU buffers at once: {text}; this counts buffers, not bytes (mlx #4464): "
            "the same command goes on from its checkpoint"
        )
    if fault is MachineFault.GPU_RESET:
        return f"the GPU was reset, maybe for another program: {text}; run the same command again"
    return f"the GPU failed: {text}; run the same command again, after a reboot if it stays"
