"""Files that are whole or not there: written beside, flushed to the disk, renamed into place.

Knows nothing of what the files mean. A folder is made the same way as a file.
"""

import contextlib
import errno
import fcntl
import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".grpo-tmp-"
"""Before the name of what is not whole yet."""

REPLACED = ".grpo-old-"
"""Before the name of a folder that is about to be replaced."""


SET_ASIDE = ".grpo-torn-"
"""Before the name of what was not whole, and is kept for who wants to look."""


def sync(fd: int) -> None:
    """To the disk itself; on macOS fsync alone stops at the disk's own cache."""
    if sys.platform == "darwin":
        # Not every file system knows it (network folders): then fsync is what there is.
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def sync_folder(folder: Path) -> None:
    """The names in a folder, to the disk."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except PermissionError:
        # One may write into it but not list it: then its names come to the disk by themselves.
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """One JSON object, atomically; a float that is not finite becomes null."""
    text = json.dumps(finite(document), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, (text + "\n").encode())


def write_atomically(path: Path, content: bytes) -> None:
    """The file's new content, whole or not at all; OSError where it cannot be written."""
    # A name of our own: another process or thread may write the same file. At most 255 bytes.
    beside = path.with_name(f"{TEMPORARY}{os.getpid()}-{threading.get_ident()}-{path.name[:50]}")
    try:
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            sync(file.fileno())
        os.replace(beside, path)
    except OSError as e:
        with contextlib.suppress(OSError):
            beside.unlink()
        # Of a full disk a write does not say whose file it met.
        raise OSError(e.errno, e.strerror, str(path)) from None
    sync_folder(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a file; None where it is missing, torn, or something else."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def read_whole_json(path: Path) -> dict[str, Any] | None:
    """As `read_json`, but OSError where the file is there and cannot be read.

    For whoever would throw away what seems torn: no permission and a failing disk are not that.
    """
    try:
        must_be_regular(path)
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def must_be_regular(path: Path) -> None:
    """OSError for what is no file: to read a pipe that nobody writes to has no end."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a file", str(path))


def finite(value: Any) -> Any:
    """The same value with null for what JSON cannot say: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return None
    return value


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill that becomes `target` at the end; nothing is left behind on an error.

    What stood at `target` before is replaced; `put_back` mends a death between the two renames.
    """
    beside = target.with_name(TEMPORARY + target.name)
    remove(beside)
    beside.mkdir(parents=True)
    try:
        yield beside
        for path in sorted(beside.rglob("*")):
            _sync_path(path)
        sync_folder(beside)
    except BaseException as e:
        remove(beside)
        if isinstance(e, OSError) and e.filename is None and e.errno is not None:
            raise OSError(e.errno, e.strerror, str(target)) from None
        raise
    replace_folder(beside, target)


def replace_folder(beside: Path, target: Path) -> None:
    """Rename a folder that is whole and on the disk to `target`, whatever stood there before.

    `put_back` mends a death between the two renames.
    """
    aside = target.with_name(REPLACED + target.name)
    remove(aside)
    if target.exists():
        os.rename(target, aside)
    os.rename(beside, target)
    sync_folder(target.parent)
    remove(aside)


def _sync_path(path: Path) -> None:
    if path.is_dir():
        sync_folder(path)
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def put_back(folder: Path) -> None:
    """Clear what a death left in `folder`: half-made things go, a folder set aside comes back."""
    for path in sorted(folder.glob(f"{REPLACED}*")):
        target = path.with_name(path.name.removeprefix(REPLACED))
        if target.exists():
            remove(path)
        else:
            os.rename(path, target)
    for path in sorted(folder.glob(f"{TEMPORARY}*")):
        remove(path)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        # It loads every kind of compression, and `grpo-sweep status` would pay for that.
        import shutil

        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
