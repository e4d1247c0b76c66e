"""Files that came incomplete: Git LFS pointers in place of what they name, cut downloads."""

import json
import os
import struct
from pathlib import Path
from typing import BinaryIO

_POINTER = b"version https://git-lfs.github.com/spec/"
# A safetensors file begins with the length of its header, which is JSON.
_LENGTH = struct.Struct("<Q")
_LONGEST_HEADER = 100_000_000


def incomplete(path: Path) -> str:
    """What is wrong with a file, as the end of a sentence that begins with its name; or "".

    Of other kinds of files than safetensors only pointers are known.
    """
    with open(path, "rb") as file:
        begin = file.read(len(_POINTER))
        if begin == _POINTER:
            return "is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
        if path.suffix != ".safetensors":
            return ""
        file.seek(0)
        return _cut(file.read(_LENGTH.size), file, os.fstat(file.fileno()).st_size)


def _cut(length: bytes, file: BinaryIO, size: int) -> str:
    again = "; it is cut or broken, download it again"
    if len(length) < _LENGTH.size or _LENGTH.unpack(length)[0] > min(size, _LONGEST_HEADER):
        return f"has {size:,} bytes and no whole header{again}"
    header = file.read(_LENGTH.unpack(length)[0])
    try:
        tensors = json.loads(header)
        ends = [info["data_offsets"][1] for key, info in tensors.items() if key != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return f"has a header that cannot be read{again}"
    whole = _LENGTH.size + len(header) + max(ends, default=0)
    return "" if size >= whole else f"has {size:,} of {whole:,} bytes{again}"
