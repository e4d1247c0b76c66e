"""Files that are written whole or not at all, and how much a folder holds."""

import os
import tempfile
from pathlib import Path

from orchestrator.errors import UsageError


def check_target(path: Path) -> Path:
    """The path, if a file can be written there; UsageError, so that no work is done in vain.

    What cannot be known before (a disk that fills up) is left to `write_target`.
    """
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file in it")
    folder = path.parent
    if not folder.is_dir():
        raise UsageError(f"{path}: the folder {folder} does not exist; make it, or name another")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"{path}: you may not write to the folder {folder}; name another")
    return path


def make_folder(path: Path) -> Path:
    """The folder, made where it is missing; UsageError where that fails or it cannot be used."""
    try:
        path.mkdir(exist_ok=True)
    except OSError as e:
        raise UsageError(f"{path}: the folder cannot be made: {e.strerror}; name another") from None
    check_target(path / "a.png")
    return path


def write_target(path: Path, content: bytes) -> None:
    """Write beside, then rename into place; UsageError where that fails, and no half file stays."""
    beside = ""
    try:
        handle, beside = tempfile.mkstemp(prefix=f".{path.name[:50]}-", dir=path.parent)
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o666 & ~_umask())
        os.replace(beside, path)
    except OSError as e:
        if beside:
            Path(beside).unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot be written: {e.strerror}; name another file") from None


def _umask() -> int:
    """What the user takes away from new files; it can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def freeze(path: Path, text: str) -> None:
    """Write a frozen config unless it is there already, atomically."""
    content = text.encode()
    try:
        if path.read_bytes() == content:
            return
    except FileNotFoundError:
        pass
    beside = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def folder_bytes(folder: Path) -> int:
    """The bytes of all files under a folder; what vanishes meanwhile counts as nothing."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_size
            except OSError:
                continue
    return total
