"""The log of an attempt: what its trainer prints, below a line of ours that names its command."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from orchestrator.run import Run

HEADER = "== "
_TAIL_BYTES = 64 * 1024


def header(run: Run, n: int, argv: Sequence[str]) -> bytes:
    """The first line of an attempt's log."""
    return f"{HEADER}attempt {n} of run {run.id}: {shlex.join(argv)}\n".encode()


def read_tail(path: Path, limit: int = _TAIL_BYTES) -> str:
    """The end of an attempt's log, without our own header; empty where there is none."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - limit))
            text = log.read().decode(errors="replace")
    except OSError:
        return ""
    return "\n".join(line for line in text.splitlines() if not line.startswith(HEADER))
