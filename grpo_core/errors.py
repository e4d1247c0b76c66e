"""The trainer's errors: one tree, each knows the exit code of the process that it ends.

    GRPOError
    |- ConfigError     2   a config file, an override or a field
    |- DataError       3   a data set or a row
    |- ModelError      3   a model folder, its tokenizer or its adapters
    |- RewardError     3   a reward function
    |- OutOfMemory     4   the device has no memory left
    |- GPUFault        5   watchdog or hang of the GPU
    |- Diverged        6   non-finite updates, or no learning signal for the whole window
    |- FileFault       1   a file that may not be read or written, or a disk that fails
    |- DiskFull        7   nothing more can be written
    |- HubAway         8   the hub cannot be reached, and what it has is not here
    `- Interrupted    75   stopped from outside; the same command goes on

What an error says: what, which value, where, and what to try.
"""

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """How the trainer's process ended, for whoever started it."""

    COMPLETED = 0
    CRASH = 1
    CONFIG = 2
    DATA = 3
    OUT_OF_MEMORY = 4
    GPU_FAULT = 5
    DIVERGED = 6
    DISK_FULL = 7
    HUB_AWAY = 8
    INTERRUPTED = 75
    KILLED = 137
    """A process of the trainer's got SIGKILL; the number is what shells make of that."""


class GRPOError(Exception):
    """Anything we know how to explain to the user in one message."""

    exit_code: ClassVar[ExitCode] = ExitCode.CRASH


class ConfigError(GRPOError):
    """A configuration that cannot be used; `faults` holds every fault that was found."""

    exit_code = ExitCode.CONFIG

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class DataError(GRPOError):
    """A data set that cannot be read, or a row without what the config asks for."""

    exit_code = ExitCode.DATA


class ModelError(GRPOError):
    """A model that cannot be found, loaded or trained as asked."""

    exit_code = ExitCode.DATA


class RewardError(GRPOError):
    """A reward that is unknown, raised, or returned something that is no reward."""

    exit_code = ExitCode.DATA


class OutOfMemory(GRPOError):
    """The device could not give the memory that a step needs."""

    exit_code = ExitCode.OUT_OF_MEMORY


class GPUFault(GRPOError):
    """The GPU's watchdog ended a command, or the GPU hangs."""

    exit_code = ExitCode.GPU_FAULT


class Diverged(GRPOError):
    """Too many non-finite updates, or a window without any learning signal."""

    exit_code = ExitCode.DIVERGED


class FileFault(GRPOError):
    """A file of the run that cannot be read or written: permissions, or a disk that fails."""


class DiskFull(GRPOError):
    """No space left for the log, a checkpoint or the result."""

    exit_code = ExitCode.DISK_FULL


class HubAway(GRPOError):
    """The hub cannot be reached just now, and what is asked of it was not fetched before."""

    exit_code = ExitCode.HUB_AWAY


class Interrupted(GRPOError):
    """Stopped by a signal, or the GPU lock is held elsewhere: run the same command to go on."""

    exit_code = ExitCode.INTERRUPTED


def message_of(error: BaseException) -> str:
    """The first three lines of an exception's message in one, without a full stop at the end.

    The hub says in the second and third what is to be done: log in, ask for access.
    """
    stripped = (line.strip().rstrip(" .") for line in str(error).splitlines())
    return "; ".join([line for line in stripped if line][:3]) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an exception's message without its full stop; else its type's name.

    With the second one where the first ends with a colon and says nothing by itself.
    """
    lines = [line.strip().rstrip(" .") for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])
