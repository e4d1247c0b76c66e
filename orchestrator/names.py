"""What may stand in the name of a file or folder, and names that are free; pure.

A name is a part of a path on the user's disk, so no value that goes into it may lead elsewhere.
"""

import itertools
import re
import unicodedata
from collections.abc import Container

# A file name may have 255 bytes; `-2` or a suffix of a log may come behind ours.
MAX_NAME_BYTES = 150


def name_fault(name: str) -> str:
    """Why a text cannot be the name of a file or folder of ours; empty where it can."""
    if not name:
        return "must not be empty"
    bad = next((c for c in name if not _file_safe(c)), None)
    if bad is not None:
        return f"{bad!r} cannot stand in a name; use letters, digits and . _ - + = ,"
    if name[0] in ".-":
        return f"a name cannot begin with {name[0]!r}"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"a name can have {MAX_NAME_BYTES} bytes, this has {len(name.encode())}"
    return ""


def sweep_name_fault(name: str) -> str:
    """As `name_fault`; a sweep's name must not read as the number of a run or a range."""
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", name):
        return "reads as the number of a run; put a letter into it"
    return name_fault(name)


def safe_name(text: str) -> str:
    """A text as a part of a name: what cannot stand in one becomes `-`."""
    return re.sub(r"-{2,}", "-", without_unsafe(text)).strip("-")


def folded(name: str) -> str:
    """The name as a file system sees it that ignores case and normal forms, as macOS does."""
    return unicodedata.normalize("NFC", name).casefold()


def _file_safe(c: str) -> bool:
    # Marks belong to the letters of many scripts.
    return c.isalnum() or c in "._-+=," or unicodedata.category(c) in ("Mn", "Mc")


def without_unsafe(text: str) -> str:
    """A text in which `-` replaces each character that cannot stand in a name."""
    return "".join(c if _file_safe(c) else "-" for c in text)


def free_name(stem: str, taken: Container[str]) -> str:
    """STEM, STEM-2, STEM-3, ...: the first whose folded form is not taken."""
    names = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
    return next(name for name in names if folded(name) not in taken)


def cut(text: str, size: int) -> str:
    """The beginning of a text: at most `size` bytes, whole characters."""
    return text.encode()[:size].decode(errors="ignore")


def cut_middle(text: str, size: int) -> str:
    """The beginning and the end of a text of more than `size` characters, `..` between them."""
    if len(text) <= size:
        return text
    left = (size - 1) // 2
    return f"{text[:left]}..{text[len(text) - (size - 2 - left) :]}"
