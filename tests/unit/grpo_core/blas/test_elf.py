"""Pointers to a function are found in a library's bytes, and torn bytes are refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.blas.elf import ElfError, pointers_to

X86_64, ARM64 = 62, 183
# Numbers from the processors' supplements to the ELF specification.
GLOB_DAT = {X86_64: 6, ARM64: 1025}
JUMP_SLOT = {X86_64: 7, ARM64: 1026}
NAMES = ["", "memcpy", "cblas_sgemm", "cblas_sgemm_batch"]
# The whole file is one segment that is loaded at this address from the base.
LOADED_AT = 0x40000


def library(machine=X86_64, jumps=(), others=()):
    """An ELF file with the symbols NAMES; relocations are pairs (address, number of the symbol)."""
    strings = b"".join(name.encode() + b"\0" for name in NAMES)
    starts = [strings.index(name.encode() + b"\0") if name else 0 for name in NAMES]
    symbols = b"".join(struct.pack("<IBBHQQ", start, 0x12, 0, 0, 0, 0) for start in starts)
    parts = {
        5: strings,
        6: symbols,
        23: b"".join(struct.pack("<QQq", at, s << 32 | JUMP_SLOT[machine], 0) for at, s in jumps),
        7: b"".join(struct.pack("<QQq", at, s << 32 | GLOB_DAT[machine], 0) for at, s in others),
    }
    body, entries = b"", []
    start = 64 + 2 * 56
    for tag, part in parts.items():
        entries.append((tag, LOADED_AT + start + len(body)))
        body += part
    entries += [(2, len(parts[23])), (8, len(parts[7])), (0, 0), (6, 0xDEAD)]
    dynamic = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    size = start + len(body) + len(dynamic)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        *(b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0),
    )
    at = start + len(body)
    load = struct.pack("<IIQQQQQQ", 1, 4, 0, LOADED_AT, LOADED_AT, size, size, 0x1000)
    found = struct.pack("<IIQQQQQQ", 2, 4, at, LOADED_AT + at, 0, len(dynamic), len(dynamic), 8)
    return header + load + found + body + dynamic


@pytest.mark.parametrize("machine", [X86_64, ARM64])
def test_both_kinds_of_pointers_are_found(machine):
    """One that is bound at the first call, one that was bound at load; no other function's."""
    file = library(machine, jumps=[(0x10, 1), (0x18, 2), (0x20, 3)], others=[(0x80, 2), (0x88, 1)])
    assert pointers_to("cblas_sgemm", file) == [0x18, 0x80]
    assert pointers_to("memcpy", file) == [0x10, 0x88]


def test_a_function_that_is_not_called_has_none():
    """Neither one that is unknown, nor one of which only the beginning is named."""
    file = library(jumps=[(0x18, 2)])
    assert pointers_to("cblas_dgemm", file) == []
    assert pointers_to("cblas", file) == []


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (b"", "torn"),
        (b"not a library" * 10, "not a 64-bit"),
        (library().replace(b"\x7fELF\x02", b"\x7fELF\x01"), "not a 64-bit"),
        (library()[:18] + struct.pack("<H", 243) + library()[20:], "another processor"),
        (library()[:32] + b"\xff" * 8 + library()[40:], "torn"),
        (library()[: 64 + 56] + bytes(4) + library()[64 + 60 :], "no dynamic symbols"),
    ],
)
def test_what_is_no_such_library_is_refused(file, message):
    """Empty, text, 32 bits, RISC-V, headers beyond its end, and none with a dynamic section."""
    with pytest.raises(ElfError, match=message):
        pointers_to("cblas_sgemm", file)


@given(st.data())
def test_torn_and_damaged_files_raise_nothing_else(data):
    """Any cut, and any bytes changed."""
    file = bytearray(library(jumps=[(0x18, 2)], others=[(0x80, 2)]))
    for _ in range(data.draw(st.integers(0, 8))):
        file[data.draw(st.integers(0, len(file) - 1))] = data.draw(st.integers(0, 255))
    del file[data.draw(st.integers(0, len(file))) :]
    try:
        found = pointers_to("cblas_sgemm", bytes(file))
    except ElfError:
        return
    assert all(isinstance(address, int) for address in found)
