"""What a process finds when it is started: standard streams, folders, its limit of open files.

A terminal goes, a pipe is closed or not read, the disk behind a log is full: what a run or a worker
says is lost then, and nothing else. Data on stdout is another matter: there an error is an error.
"""

import io
import os
import resource
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A reader that takes nothing for so long gets nothing more until it reads again.
_PATIENCE_S = 2.0
# What a pipe takes whole once it takes anything (POSIX's least PIPE_BUF).
_CHUNK = 512


def settle_streams() -> None:
    """Open /dev/null where a stream was closed; let writes to stderr fail without an error.

    Does nothing to streams that somebody has replaced, such as a test.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Or the next file that is opened, such as the queue, would be what is printed to.
            _open_null(number)
    # None where Python found them closed.
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8", closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        encoding = "utf-8" if sys.stderr is None else sys.stderr.encoding
        # Without a buffer between: a Ctrl-C within a write would have it written twice.
        sys.stderr = io.TextIOWrapper(Messages(2), encoding, "replace", line_buffering=True)


def _open_null(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def missing_folder() -> str:
    """What is wrong where the current folder has been deleted; else an empty text."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return "the current folder has been deleted; cd into one that is there"
    return ""


def folder_fault(path: Path) -> str:
    """Why `path` can be no folder to write into, be it there or still to be made; else empty."""
    try:
        for part in (path, *path.parents):
            if part.is_symlink() and not part.exists():
                leads = f"{part} leads to {part.readlink()}, which is not there"
                return f"{leads}; if that lies on another disk, mount it"
            if part.exists() and not part.is_dir():
                return f"{part} is a file; choose a folder"
        existing = next(part for part in (path, *path.absolute().parents) if part.exists())
    except OSError as e:
        return f"{path}: {e.strerror}"
    return "" if os.access(existing, os.W_OK | os.X_OK) else f"{existing} cannot be written to"


@contextmanager
def open_files_kept() -> Iterator[None]:
    """Within, whoever sets the limit of open files can only raise it, as far as that is allowed.

    mlx-lm sets it to (2048, 4096) when it is imported: an error where less is allowed, as in many
    shells and containers, and less than before where more is (mlx-lm #1589).
    """
    setrlimit = resource.setrlimit

    def raised(which: int, limits: tuple[int, int]) -> None:
        if which != resource.RLIMIT_NOFILE:
            return setrlimit(which, limits)
        # RLIM_INFINITY is -1 on some systems.
        soft, hard = resource.getrlimit(which)
        endless = resource.RLIM_INFINITY
        wanted = limits[0] if hard == endless else min(limits[0], hard)
        if soft != endless and soft < wanted:
            setrlimit(which, (wanted, hard))
        return None

    resource.setrlimit = raised
    try:
        yield
    finally:
        resource.setrlimit = setrlimit


class Messages(io.RawIOBase):
    """A descriptor to write messages to; one that cannot be written is dropped."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number
        self._patience_s = _PATIENCE_S

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The descriptor."""
        return self._number

    def isatty(self) -> bool:
        """Whether it is a terminal that is still there."""
        return os.isatty(self._number)

    def write(self, data: "memoryview[int] | bytes") -> int:  # type: ignore[override]
        """Write it all, or as much as can be written; all of it counts as written."""
        size = len(data)
        rest = bytes(data)
        try:
            while rest and self._is_ready():
                rest = rest[os.write(self._number, rest[:_CHUNK]) :]
        except OSError:
            pass  # Nobody is left to be told: this was the place for messages.
        return size

    def _is_ready(self) -> bool:
        ready = bool(select.select([], [self._number], [], self._patience_s)[1])
        self._patience_s = _PATIENCE_S if ready else 0.0
        return ready
