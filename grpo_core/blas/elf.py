"""Reads a shared library's file: where the pointers lie through which it calls another's function.

Only what that needs, for 64-bit Linux on x86-64 and arm64, by the ELF-64 specification and the two
processors' supplements. Pure: bytes in, numbers out. Who writes to those pointers is `redirect`.
"""

import struct
from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple


class ElfError(ValueError):
    """Not a shared library that we can read; the message says why."""


class Segment(NamedTuple):
    """A part of the file that is loaded: its address from the library's base, place and size."""

    address: int
    offset: int
    size: int


# Of a processor (e_machine): the relocations that fill a pointer to a function,
# R_X86_64_GLOB_DAT and _JUMP_SLOT, R_AARCH64_GLOB_DAT and _JUMP_SLOT.
_POINTERS = {62: (6, 7), 183: (1025, 1026)}

_HEADER = struct.Struct("<4sBB10xHHIQQQIHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<QQ")
_RELOCATION = struct.Struct("<QII8x")
_SYMBOL_BYTES = 24

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_STRTAB, _DT_SYMTAB = 0, 5, 6
# (address, size in bytes) of the two tables of relocations.
_TABLES = ((23, 2), (7, 8))


def pointers_to(function: str, library: bytes | mmap) -> list[int]:
    """Addresses, from the base of the `library`, of its pointers to the `function`.

    Raises ElfError for what is no such library, or torn.
    """
    try:
        return list(_pointers_to(function.encode() + b"\0", memoryview(library)))
    # An offset beyond all files is no number that Python can look at.
    except (struct.error, OverflowError):
        raise ElfError("the file is torn") from None


def _pointers_to(name: bytes, file: memoryview) -> Iterator[int]:
    kinds, loaded, dynamic = _layout(file)
    strings, symbols = (_place(loaded, dynamic.get(tag)) for tag in (_DT_STRTAB, _DT_SYMTAB))
    for table, size in _TABLES:
        if table not in dynamic:
            continue
        start = _place(loaded, dynamic[table])
        content = file[start : start + dynamic.get(size, 0)]
        for address, kind, symbol in _RELOCATION.iter_unpack(content):
            if kind not in kinds:
                continue
            (at,) = struct.unpack_from("<I", file, symbols + _SYMBOL_BYTES * symbol)
            if file[strings + at : strings + at + len(name)] == name:
                yield address


def _layout(file: memoryview) -> tuple[tuple[int, int], list[Segment], dict[int, int]]:
    """Kinds of relocations that count, the loaded segments, and the dynamic section by tag."""
    magic, bits, order, _, machine, _, _, headers, _, _, _, size, count = _HEADER.unpack_from(file)
    if magic != b"\x7fELF" or (bits, order) != (2, 1) or size != _PROGRAM_HEADER.size:
        raise ElfError("not a 64-bit little-endian ELF file")
    if machine not in _POINTERS:
        raise ElfError(f"for another processor (e_machine {machine})")
    loaded, dynamic = [], {}
    for number in range(count):
        kind, _, offset, address, _, length, _, _ = _PROGRAM_HEADER.unpack_from(
            file, headers + size * number
        )
        if kind == _PT_LOAD:
            loaded.append(Segment(address, offset, length))
        elif kind == _PT_DYNAMIC:
            dynamic = dict(_entries(file[offset : offset + length]))
    return _POINTERS[machine], loaded, dynamic


def _entries(section: memoryview) -> Iterator[tuple[int, int]]:
    for tag, value in _DYNAMIC.iter_unpack(section):
        if tag == _DT_NULL:
            return
        yield tag, value


def _place(loaded: list[Segment], address: int | None) -> int:
    """Where in the file lies what is loaded at an `address`."""
    if address is None:
        raise ElfError("it has no dynamic symbols")
    for segment in loaded:
        if segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise ElfError(f"address {address:#x} is not in the file")
