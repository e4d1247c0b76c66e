"""flock on files of the queue's home: who serves the queue, and which run still lives.

A lock belongs to the open file, so a child that inherits the descriptor holds it too, and it is
free the moment the last holder dies, however it dies. The files are never removed: another process
may hold the lock of a name that is gone. Where a user removes one, its holder takes the new file.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Self

from grpo_core.run.locks import LockFault, is_still, try_flock, write_text
from orchestrator.errors import QueueError

_POLL_S = 0.02


class FileLock:
    """A held lock; `fd` may be passed on to a child, which then holds it as well."""

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        self._earlier: list[int] = []

    def write(self, text: str) -> None:
        """Say who holds it, for people: the lock itself is what counts."""
        write_text(self.fd, text)

    @property
    def in_place(self) -> bool:
        """Whether another process that asks for the lock would meet this one."""
        return is_still(self.fd, self.path)

    def keep(self) -> bool:
        """Hold what others find at `path`, though the file was removed or replaced.

        False where another process holds that already. Raises QueueError.
        """
        if self.in_place:
            return True
        with suppress(OSError):  # The lock says it if the folder cannot be made.
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = try_lock(self.path)
        if lock is None:
            return False
        self._earlier.append(self.fd)
        self.fd = lock.fd
        return True

    def release(self) -> None:
        """Let go; a child that inherited the descriptor still holds the lock."""
        for fd in (*self._earlier, *([self.fd] if self.fd >= 0 else [])):
            os.close(fd)
        self._earlier.clear()
        self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def try_lock(path: Path, wait_s: float = 0.0) -> FileLock | None:
    """The lock on `path`, or None while another process holds it; waits at most `wait_s`.

    Raises QueueError when the file cannot be made or locked.
    """
    deadline = time.monotonic() + wait_s
    try:
        while (fd := try_flock(path)) is None:
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)
    except LockFault as e:
        raise QueueError(str(e)) from None
    return FileLock(fd, path)


def is_held(path: Path) -> bool:
    """Whether some process holds the lock alone; QueueError where the file cannot be asked.

    Asked with a shared lock for an instant, so that two who ask never meet each other.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as e:
        raise QueueError(f"{path}: the lock cannot be read: {e.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as e:
        raise QueueError(f"{path}: cannot be locked: {e.strerror}") from None
    finally:
        os.close(fd)
    return False
