"""Locks between processes: one trainer at a time has the GPU, and one an output folder.

An flock on a file, so that the lock is free the moment its holder dies, however it dies. The file
is never removed, and its text says who holds it: pid, what, since. Where a user removes or replaces
it all the same, its holder takes the new one as well, and whoever waits goes on to wait for the old
one. The orchestrator's own locks are made of the same functions.
"""

import contextlib
import fcntl
import json
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from grpo_core.errors import ConfigError, Interrupted
from grpo_core.run.atomic import read_json
from grpo_core.terminal import tell

if TYPE_CHECKING:
    # Loading it takes time, which a status must not.
    from grpo_core.run.signals import StopFlag

ENV_GPU_LOCK = "GRPO_GPU_LOCK"
ENV_DEVICES = "CUDA_VISIBLE_DEVICES"

POLL_S = 0.1
"""How often one that waits looks again; an flock cannot be waited for with an ear for signals."""

KEEP_S = 0.5
"""How often the holder of the GPU looks whether its file is still the one that others lock."""

_held: set[int] = set()
"""Descriptors of the locks that this process holds or waits for."""


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
    while True:
        fd = _opened(path)
        if not _flock(fd, path):
            os.close(fd)
            return None
        if is_still(fd, path):
            return fd
        # The file was removed while we took it: another process would lock the new one.
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as e:
        raise LockFault(f"{path}: the lock cannot be made: {e.strerror}") from None


def _flock(fd: int, path: Path) -> bool:
    """Whether an open file could be locked; it is closed where LockFault is raised."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as e:
        os.close(fd)
        raise LockFault(f"{path}: cannot be locked: {e.strerror}") from None
    return True


def is_still(fd: int, path: Path) -> bool:
    """Whether an open file is the one at `path`; else it was moved, deleted or replaced.

    True where that cannot be known, as on a disk that fails: whatever is written next will say it.
    """
    try:
        return os.path.samestat(os.fstat(fd), path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True


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
        self._wanted: int | None = None
        self._earlier: list[int] = []

    def try_acquire(self) -> bool:
        """Take the lock if it is free. ConfigError where the file cannot be made.

        A file that another process holds is waited for though it be removed: its holder works on.
        """
        while True:
            fd = self._wanted if self._wanted is not None else self._open()
            self._wanted = None
            try:
                taken = _flock(fd, self.path)
            except LockFault as e:
                _held.discard(fd)
                raise ConfigError(str(e)) from None
            if not taken:
                self._wanted = fd
                return False
            if is_still(fd, self.path):
                self._hold(fd)
                return True
            _close(fd)

    def keep(self) -> bool:
        """Hold what others find at `path`, though the file was removed or replaced.

        False where another process holds that already. Raises LockFault.
        """
        if self._fd is None or self.in_place:
            return True
        self._make_folder()
        fd = try_flock(self.path)
        if fd is None:
            return False
        _held.add(fd)
        # Whoever waits for the file that was removed waits on.
        self._earlier.append(self._fd)
        self._hold(fd)
        return True

    def release(self) -> None:
        """Free the lock; the text goes with it."""
        if self._fd is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, 0)
        for fd in (self._fd, self._wanted, *self._earlier):
            if fd is not None:
                _close(fd)
        self._fd = self._wanted = None
        self._earlier.clear()

    @property
    def in_place(self) -> bool:
        """Whether another process that wants the lock would meet this one."""
        return self._fd is not None and is_still(self._fd, self.path)

    def _open(self) -> int:
        self._make_folder()
        try:
            fd = _opened(self.path)
        except LockFault as e:
            raise ConfigError(str(e)) from None
        _held.add(fd)
        return fd

    def _make_folder(self) -> None:
        with contextlib.suppress(OSError):  # The open says it if the folder cannot be made.
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def _hold(self, fd: int) -> None:
        self._fd = fd
        self._write_holder(fd)

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


def _close(fd: int) -> None:
    _held.discard(fd)
    os.close(fd)


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


def gpu_lock_path(environ: Mapping[str, str] = os.environ) -> Path:
    """The lock of the GPU for this user on this machine; GRPO_GPU_LOCK names another file.

    Each device has a file of its own: the one that is used goes by CUDA_VISIBLE_DEVICES, and is the
    first where that says nothing.
    """
    named = environ.get(ENV_GPU_LOCK)
    if named:
        return Path(named)
    device = environ.get(ENV_DEVICES, "").split(",")[0].strip()
    # Not at the top: the orchestrator loads this file for each status, which needs no lock.
    import platformdirs

    folder = Path(platformdirs.user_data_dir("grpo-sweep", appauthor=False))
    first = folder / f"gpu{_machine()}.lock"
    return first if device in ("", "0", "-1") else lock_beside(first, device)


def lock_beside(path: Path, device: str) -> Path:
    """The lock of another device: `gpu-1.lock` beside `gpu.lock`."""
    safe = re.sub(r"[^\w-]", "_", device)
    return path.with_name(f"{path.stem}-{safe}{path.suffix}")


def _machine() -> str:
    """Distinguishes machines that share a home folder over the network (Linux clusters)."""
    try:
        return "-" + Path("/etc/machine-id").read_text(encoding="ascii").strip()[:12]
    except (OSError, ValueError):
        return ""


@contextlib.contextmanager
def gpu_lock(what: str, stop: "StopFlag", wait: bool = True) -> Iterator[None]:
    """Hold the GPU; take it before the device is touched. See `acquire` for what is raised.

    Where the lock's file is removed or replaced meanwhile, the new one is held too; `stop` is asked
    where another process was faster.
    """
    lock = Lock(gpu_lock_path(), what)
    acquire(lock, "the GPU", stop.wait, wait)
    with lock, _kept(lock, stop):
        yield


@contextlib.contextmanager
def _kept(lock: Lock, stop: "StopFlag") -> Iterator[None]:
    """Look after the lock in a thread of its own: a single update may take minutes."""
    over = threading.Event()
    thread = threading.Thread(
        target=_look_after, args=(lock, stop, over), name="gpu-lock", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look_after(lock: Lock, stop: "StopFlag", over: threading.Event) -> None:
    said = False
    while not over.wait(KEEP_S):
        try:
            if lock.in_place:
                continue
            if not lock.keep():
                who = read_holder(lock.path) or "another process"
                why = f"{lock.path} was removed or replaced, and {who} took the GPU"
                tell(f"[lock] {why}: this run makes room for it")
                stop.ask(f"{why}: this run makes room for it")
                return
            tell(f"[lock] {lock.path} was removed or replaced: this run holds the new file as well")
        except (LockFault, OSError) as e:
            # A full disk, maybe: it is tried again.
            if not said:
                tell(f"[lock] {lock.path} was removed while this run holds the GPU: {e}")
            said = True
