"""Named points at which a test can make the process die as by kill -9; nothing otherwise.

For tests only: with `GRPO_SWEEP_CRASH_AT=store.claimed` in its environment the process kills itself
the first time that it reaches that point, `store.claimed:3` the third time. docs/crash-table.md
lists the points with what must hold after each.
"""

import os
import signal

ENV = "GRPO_SWEEP_CRASH_AT"

POINTS = (
    "store.adding",  # a sweep is written, not committed
    "store.claiming",  # a run is claimed, not committed
    "store.claimed",  # committed, nothing else done
    "launcher.locked",  # the run lock is held, no trainer yet
    "launcher.spawned",  # the trainer runs, the database does not know its pid
    "worker.started",  # the pid is recorded
    "worker.ended",  # the trainer ended, nothing is recorded
    "store.finishing",  # the outcome is written, not committed
    "store.finished",  # committed, the run lock is still held
)

# These are reached only where a search asks for its next setting.
SEARCH_POINTS = (
    "store.suggesting",  # the next setting is known, its runs are not written
    "store.suggested",  # committed, nothing else done
)

# This one only where the next trainer has been prepared.
STANDBY_POINTS = (
    "worker.standby",  # the pid is recorded, the trainer has not got its go
)

# These on a node, which trains for another machine.
NODE_POINTS = (
    "node.laid",  # the attempt's files are there, no trainer yet
    "node.spawned",  # the trainer runs, its pid is not noted
    "node.ended",  # the trainer ended, how is not noted
)

_reached: dict[str, int] = {}


def crashpoint(name: str) -> None:
    """Die here, without any clean-up, when the environment asks for it."""
    wanted, _, count = os.environ.get(ENV, "").partition(":")
    if name != wanted:
        return
    _reached[name] = _reached.get(name, 0) + 1
    if _reached[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
