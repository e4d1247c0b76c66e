"""Memory, GPU faults, a full disk, a hub that is away: raw exceptions -> our errors, with advice.

Which texts mean what is in `protocol.py`. An exception that is not known is a bug, and stays what
it is.
"""

import errno
import socket
from collections.abc import Iterator

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import (
    DataError,
    DiskFull,
    FileFault,
    GPUFault,
    GRPOError,
    HubAway,
    ModelError,
    OutOfMemory,
)
from grpo_core.run.protocol import MachineFault, machine_fault

_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FILE = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.EROFS})

# Said by the device's queue, not by the allocator.
_QUEUE_TEXTS = ("erroroutofmemory", "command buffer execution failed")


def explain(error: BaseException, cfg: MLXGRPOConfig | None = None) -> GRPOError | None:
    """The error of our tree that `error` amounts to; None for what is not known."""
    if isinstance(error, GRPOError):
        # A download or a cache that met a full disk: that is the news, wherever it happened.
        cause = error.__cause__
        if cause is not None and _is_disk(cause):
            return explain(cause)
        return HubAway(str(error)) if _is_hub_away(error) else error
    if _is_disk(error):
        assert isinstance(error, OSError)
        where = f"{error.filename}: " if error.filename else ""
        return DiskFull(f"{where}{error.strerror}; free some space, then run the same command")
    if isinstance(error, OSError) and error.errno in _FILE and error.filename:
        return FileFault(f"{error.filename}: cannot be used: {error.strerror}")
    if isinstance(error, MemoryError):
        return OutOfMemory(_memory_message(str(error), cfg))
    if isinstance(error, RuntimeError | ValueError | OSError):
        return _by_text(error, cfg)
    return None


def _is_hub_away(error: GRPOError) -> bool:
    """Whether data or a model are missing because of the network, and may be had later.

    Told by what the libraries had met when ours was raised: a connection that fails, a time-out, a
    server with trouble. What the user has switched off (HF_HUB_OFFLINE) does not come back.
    """
    if not isinstance(error, DataError | ModelError):
        return False
    met = list(_met(error))
    if any("OfflineModeIsEnabled" in f"{type(one).__name__} {one}" for one in met):
        return False
    return any(_is_network(one) for one in met)


def _met(error: BaseException) -> Iterator[BaseException]:
    """The exceptions that led to this one, the latest first."""
    seen: set[int] = set()
    before = error.__cause__ or error.__context__
    while before is not None and id(before) not in seen:
        seen.add(id(before))
        yield before
        before = before.__cause__ or before.__context__


def _is_network(error: BaseException) -> bool:
    if isinstance(error, ConnectionError | socket.gaierror | TimeoutError):
        return True
    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(status, int):
        return status == 429 or status >= 500
    # The root of what httpx raises where no answer came; the hub's library may carry its own copy.
    return any(kind.__name__ == "TransportError" for kind in type(error).__mro__)


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
