"""The log of an attempt: what its trainer prints, below a line of ours that names its command."""

import errno
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestrator.errors import QueueBusy
from orchestrator.run import Run

HEADER = "== "

PASSING = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM}
)
"""What a machine lacks for a while: room on the disk, open files, processes, memory."""

_TAIL_BYTES = 64 * 1024


def header(run: Run, n: int, argv: Sequence[str]) -> bytes:
    """The first line of an attempt's log."""
    return f"{HEADER}attempt {n} of run {run.id}: {shlex.join(argv)}\n".encode()


def note(path: Path, lines: Sequence[str]) -> None:
    """Add lines of ours; QueueBusy where there is no room for them just now."""
    try:
        with open(path, "a", encoding="utf-8") as log:
            log.writelines(f"{line}\n" for line in lines)
    except OSError as e:
        if e.errno in PASSING:
            raise QueueBusy(f"{path}: {e.strerror}") from None
        raise


def read_tail(path: Path, limit: int = _TAIL_BYTES) -> str:
    """The end of an attempt's log, without our own header; empty where there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - limit))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(line for line in text.splitlines() if not line.startswith(HEADER))
