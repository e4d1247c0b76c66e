"""Sums of files: what lies in a folder of weights, and whether it is all there as it was written.

A sum is computed once and known until the file changes: weights are large.
"""

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

from grpo_core.run import protocol
from grpo_core.run.atomic import read_json

Stamp = tuple[int, int, int]


def stamp(path: Path) -> Stamp:
    """Which file it is, its size, and when it was written last: another one after each change."""
    stat = path.stat()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True)
class Summed:
    """A file of a folder, by its name there."""

    name: str
    size: int
    sha256: str


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; OSError."""
    return _digest(path, stamp(path))


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, _: Stamp) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def whole_weights(folder: Path) -> list[Summed]:
    """The files of a folder of weights; none where it is not as its manifest says. OSError.

    What a manifest lists outside of its folder is never read: it may come from another machine.
    """
    listed = (read_json(folder / protocol.MANIFEST) or {}).get("files")
    if not isinstance(listed, dict) or not all(map(_is_plain, listed)):
        return []
    try:
        found = [_summed(folder, name) for name in (*listed, protocol.MANIFEST)]
    except FileNotFoundError:
        return []
    for file in found[:-1]:
        if {"bytes": file.size, "sha256": file.sha256} != listed[file.name]:
            return []
    return found


def _is_plain(name: str) -> bool:
    return "\0" not in name and not {"", ".", ".."} & {*name.split("/")}


def _summed(folder: Path, name: str) -> Summed:
    path = folder / name
    return Summed(name, path.stat().st_size, digest(path))
