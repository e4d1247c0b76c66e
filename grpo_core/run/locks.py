"""Locks between processes: one trainer at a time has the GPU, and one an output folder.

An flock on a file, so that the lock is free the moment its holder dies, however it dies. The file
is never removed, and its text says who holds it: pid, what, since. The orchestrator's own locks
are made of the same two functions, `try_flock` and `write_text`.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from grpo_core.errors import ConfigError, Interrupted
from grpo_core.run.atomic import read_json
from grpo_core.terminal import tell

ENV_GPU_LOCK = "GRPO_GPU_LOCK"

POLL_S = 0.1
"""How often one that waits looks again; an flock cannot be waited for with an ear for signals."""

_held: set[int] = set()
"""Descriptors of the locks that this process holds."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    pid: int
    what: str
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} ({self.what}) since {self.since}"


class LockFault(Exception):
    """A lock file that cannot be made or locked; the message says why."""


def try_flock(path: Path) -> int | None:
    """A descriptor that holds the flock on `path`; None while another process holds it.

    Raises LockFault.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise LockFault(f"{path}: the lock cannot be made: {e.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except OSError as e:
        os.close(fd)
        raise LockFault(f"{path}: cannot be locked: {e.strerror}") from None
    if is_still(fd, path):
        return fd
    # The file was removed while we took it: another process would lock the new one.
    os.close(fd)
    return try_flock(path)


def is_still(fd: int, path: Path) -> bool:
    """Whether an open file is the one at `path`; else it was moved, deleted or replaced."""
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False


def write_text(fd: int, text: str) -> None:
    """Say in a held lock's file who holds it: the flock is what counts.

    On a full disk the earlier text stays. Blanks cover its end, for whoever reads between the two.
    """
    content = text.encode()
    os.pwrite(fd, content.ljust(os.fstat(fd).st_size), 0)
    os.ftruncate(fd, len(content))


class Lock:
    """An flock on `path`, held from `try_acquire` to `release` or the death of this process."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if it is free. ConfigError where the file cannot be made."""
        with contextlib.suppress(OSError):  # `try_flock` says it if the folder cannot be made.
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fd = try_flock(self.path)
        except LockFault as e:
            raise ConfigError(str(e)) from None
        if fd is None:
            return False
        self._fd = fd
        _held.add(fd)
        self._write_holder(fd)
        return True

    def release(self) -> None:
        """Free the lock; the text goes with it."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
            _held.discard(self._fd)
            os.close(self._fd)
            self._fd = None

    @property
    def in_place(self) -> bool:
        """Whether another process that wants the lock would meet this one."""
        return self._fd is not None and is_still(self._fd, self.path)

    def __enter__(self) -> "Lock":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _write_holder(self, fd: int) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        text = json.dumps(asdict(Holder(os.getpid(), self.what, since)))
        # The text is for people: a full disk is no reason to give the lock back.
        with contextlib.suppress(OSError):
            write_text(fd, text)


def _drop_in_child() -> None:
    """A forked child must not keep the locks beyond our death."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_drop_in_child)


def read_holder(path: Path) -> Holder | None:
    """Who last wrote that it holds the lock; None where the text is missing or torn."""
    known = read_json(path)
    if known is None or not known.keys() >= {"pid", "what", "since"}:
        return None
    return Holder(known["pid"], known["what"], known["since"])


def acquire(
    lock: Lock,
    name: str,
    should_stop: Callable[[float], bool],
    wait: bool = True,
    pointless: Callable[[], bool] = lambda: False,
) -> bool:
    """Take `lock`, waiting for it if need be, and saying on stderr who holds it.

    `name` is what is waited for ("the GPU"); `should_stop(seconds)` sleeps at most so long and
    returns whether a signal came. False as soon as waiting is `pointless`. Raises Interrupted on a
    signal, and without `wait` instead of waiting.
    """
    said: Holder | None = None
    spoke = False
    while not lock.try_acquire():
        if pointless():
            return False
        now = read_holder(lock.path)
        if not wait:
            raise Interrupted(f"{name} is held by {now or 'another process'}; not waiting")
        if not spoke or (now is not None and now != said):
            tell(f"[lock] waiting for {name}, held by {now or 'another process'}")
            spoke, said = True, now
        if should_stop(POLL_S):
            raise Interrupted(f"stopped while waiting for {name}")
    if spoke:
        # Whoever reads the log knows that the wait is over.
        tell(f"[lock] {name} is free")
    return True


def is_waiting(line: str) -> bool:
    """Whether a line of a run's output says that it waits for a lock."""
    return line.startswith("[lock] waiting for ")


def gpu_lock_path() -> Path:
    """The one file for this user on this machine; GRPO_GPU_LOCK names another."""
    named = os.environ.get(ENV_GPU_LOCK)
    if named:
        return Path(named)
    # Not at the top: the orchestrator loads this file for each status, which needs no lock.
    import platformdirs

    folder = Path(platformdirs.user_data_dir("grpo-sweep", appauthor=False))
    return folder / f"gpu{_machine()}.lock"


def _machine() -> str:
    """Distinguishes machines that share a home folder over the network (Linux clusters)."""
    try:
        return "-" + Path("/etc/machine-id").read_text(encoding="ascii").strip()[:12]
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def gpu_lock(what: str, should_stop: Callable[[float], bool], wait: bool = True) -> Iterator[None]:
    """Hold the GPU; take it before the device is touched. See `acquire` for what is raised."""
    lock = Lock(gpu_lock_path(), what)
    acquire(lock, "the GPU", should_stop, wait)
    with lock:
        yield
