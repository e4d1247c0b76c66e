"""Files that are written whole or not at all, and how much a folder holds."""

import os
from pathlib import Path

from grpo_core.run.atomic import write_atomically
from orchestrator.errors import UsageError


def check_target(path: Path) -> Path:
    """The path, if a file can be written there; UsageError, before any work is done for it.

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


def make_folder(path: Path, parents: bool = False) -> Path:
    """The folder, made where it is missing; UsageError where that fails or it cannot be used."""
    try:
        path.mkdir(parents=parents, exist_ok=True)
    except OSError as e:
        raise UsageError(f"{path}: the folder cannot be made: {e.strerror}; name another") from None
    check_target(path / "a.png")
    return path


def write_target(path: Path, content: bytes) -> None:
    """Write the file whole or not at all; UsageError where that fails."""
    try:
        write_atomically(path, content)
    except OSError as e:
        raise UsageError(f"{path}: cannot be written: {e.strerror}; name another file") from None


def freeze(path: Path, text: str) -> None:
    """Write a frozen config unless it is there already."""
    content = text.encode()
    if not path.exists() or path.read_bytes() != content:
        write_atomically(path, content)


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
