"""The orchestrator's errors: one tree, each knows the exit code of the command that meets it.

    SweepError                1   anything that we can explain in one message
    |- UsageError             2   arguments that make no sense together
    |- SpecError              2   a sweep spec; holds every fault that was found
    |- QueueError             2   the database or its folder cannot be used
    |  `- QueueBusy           2   not just now, but maybe later: locked, or the disk is full
    `- NothingAffected        3   unknown id, or a change of state that is not legal
       `- WorkerBusy          3   another worker already serves this queue

What an error says: what, which value, where, and what to try.
"""

from typing import ClassVar


class SweepError(Exception):
    """Anything that we know how to explain to the user in one message."""

    exit_code: ClassVar[int] = 1


class UsageError(SweepError):
    """A command whose arguments make no sense, alone or together."""

    exit_code = 2


class SpecError(SweepError):
    """A sweep spec that cannot be used; `faults` holds every fault that was found."""

    exit_code = 2

    def __init__(self, *faults: str) -> None:
        self.faults = faults
        super().__init__("\n".join(faults))


class QueueError(SweepError):
    """A database or a home folder that cannot be used: newer, corrupt, read-only, locked, full."""

    exit_code = 2


class QueueBusy(QueueError):
    """A database or a home folder that cannot be used just now: locked, or the disk is full."""


class NothingAffected(SweepError):
    """The command changed nothing: unknown id, or a change of state that is not legal."""

    exit_code = 3


class WorkerBusy(NothingAffected):
    """Another worker already serves this queue; the message names its pid."""
