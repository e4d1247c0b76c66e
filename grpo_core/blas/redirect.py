"""Leads MLX's matrix products on the CPU to another BLAS, by the pointer through which it calls.

`libmlx.so` calls `cblas_sgemm`, its fp32 product, through a pointer in its own memory that the
loader fills. Once mlx is imported the address of another library's function is written there. The
other BLAS and LAPACK functions that MLX calls (fp64, complex, factorisations) are not used by the
trainer and stay; bf16, fp16 and quantised products never go through a BLAS. Before anything is
written it is certain that the pointer is MLX's and what it holds is that function; afterwards
products are compared with numpy's, and the pointer is put back if one is wrong.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path

import mlx.core as mx
import numpy as np

from grpo_core.blas.elf import ElfError, pointers_to
from grpo_core.blas.library import Library, UnusableError

FUNCTION = "cblas_sgemm"

_RTLD_DI_LINKMAP = 2
_PROT_READ, _PROT_WRITE = 1, 2


def redirect(libmlx: Path, library: Library) -> None:
    """Write the library's function into MLX's pointers; else UnusableError, and all is as before.

    `libmlx` is the file, which must be loaded.
    """
    pointers = [_base(libmlx) + offset for offset in _offsets(libmlx)]
    if not pointers:
        raise UnusableError(f"{libmlx} does not call {FUNCTION}")
    before = [_read(pointer) for pointer in pointers]
    for address in before:
        _must_be_the_function(address, libmlx)
    _must_multiply("MLX's own products")
    for pointer in pointers:
        _write(pointer, library.sgemm)
    try:
        if library.set_threads is not None:
            library.set_threads(1)
        _must_multiply("products")
    except UnusableError:
        for pointer, address in zip(pointers, before, strict=True):
            _write(pointer, address)
        raise


def _offsets(libmlx: Path) -> list[int]:
    try:
        # Mapped: of its 20 MB few pages are looked at.
        with open(libmlx, "rb") as file:
            return pointers_to(FUNCTION, mmap(file.fileno(), 0, access=ACCESS_READ))
    except OSError as error:
        raise UnusableError(f"{libmlx}: {error.strerror}") from None
    except ElfError as error:
        raise UnusableError(f"{libmlx}: {error}") from None


# --- the process's memory


class _Place(ctypes.Structure):
    """Dl_info of dladdr: the library and the function that an address belongs to."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("function", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _loader() -> ctypes.CDLL:
    loader = ctypes.CDLL(None, use_errno=True)
    loader.dlinfo.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
    loader.dladdr.argtypes = (ctypes.c_void_p, ctypes.POINTER(_Place))
    loader.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return loader


def _base(libmlx: Path) -> int:
    """What the loader added to the library's addresses."""
    try:
        handle = ctypes.CDLL(str(libmlx), mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        raise UnusableError(f"{libmlx} is not loaded") from None
    link_map = ctypes.c_void_p()
    if _loader().dlinfo(handle._handle, _RTLD_DI_LINKMAP, ctypes.byref(link_map)) != 0:
        raise UnusableError("the loader does not say where MLX lies")
    assert link_map.value is not None
    # l_addr is the first field.
    return _read(link_map.value)


def _read(pointer: int) -> int:
    return ctypes.c_uint64.from_address(pointer).value


def place_of(address: int) -> tuple[str, str]:
    """File and function that an address lies in; empty where the loader does not know."""
    place = _Place()
    if not _loader().dladdr(address, ctypes.byref(place)):
        return "", ""
    return (place.file or b"").decode(), (place.function or b"").decode()


def _must_be_the_function(address: int, libmlx: Path) -> None:
    """What a pointer holds is the function, or the library's own stub that looks it up."""
    file, function = place_of(address)
    is_stub = bool(file) and Path(file).resolve() == libmlx.resolve()
    if not is_stub and not function.endswith(FUNCTION):
        raise UnusableError(f"where {FUNCTION} is expected lies {function or 'nothing known'}")


def _write(pointer: int, value: int) -> None:
    with _writable(pointer):
        ctypes.c_uint64.from_address(pointer).value = value


@contextmanager
def _writable(pointer: int) -> Iterator[None]:
    """Within it the pointer's page can be written: it is read-only in a library bound at once."""
    if _is_writable(pointer):
        yield
        return
    size = os.sysconf("SC_PAGESIZE")
    page = pointer // size * size
    _protect(page, size, _PROT_READ | _PROT_WRITE)
    try:
        yield
    finally:
        _protect(page, size, _PROT_READ)


def _protect(page: int, size: int, rights: int) -> None:
    if _loader().mprotect(page, size, rights) != 0:
        raise UnusableError(f"MLX's memory is protected ({os.strerror(ctypes.get_errno())})")


def _is_writable(address: int) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, rights = line.split()[:2]
        start, end = (int(part, 16) for part in span.split("-"))
        if start <= address < end:
            return "w" in rights
    raise UnusableError(f"no memory at {address:#x}")


# --- whether it multiplies


def _must_multiply(what: str) -> None:
    """MLX's products in every layout equal numpy's in float64, to what fp32 can lose at most."""
    right_ones = []
    for rows, inner, columns in ((1, 64, 48), (7, 700, 33), (130, 20, 60)):
        left = np.sin(np.arange(rows * inner, dtype=np.float32)).reshape(rows, inner)
        right = np.cos(np.arange(inner * columns, dtype=np.float32)).reshape(inner, columns)
        exact = left.astype(np.float64) @ right
        # Of each sum of `inner` products (Higham, Accuracy and Stability, 3.5), with room for 2.
        most = 2 * inner * 2.0**-24 * (abs(left) @ abs(right))
        for a in (mx.array(left), mx.array(left.T.copy()).T):
            for b in (mx.array(right), mx.array(right.T.copy()).T):
                near = mx.abs(a @ b - mx.array(exact)) <= mx.array(most)
                right_ones.append(near.all())
    if not mx.stack(right_ones).all().item():
        raise UnusableError(f"{what} are not numpy's")
