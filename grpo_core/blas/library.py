"""Finds a BLAS for MLX, opens it, and asks it for what must be recorded with a run.

First the one that we depend on (scipy-openblas32, BSD licence), then what the machine has: MKL,
OpenBLAS. `GRPO_BLAS` overrules that. mlx is not needed here, so that a wrong setting is reported
at once.
"""

import ctypes
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grpo_core.errors import ConfigError

ENV = "GRPO_BLAS"
REFERENCE = "reference"

_PACKAGE = "scipy_openblas32"
_PACKAGE_FILE = "lib/libscipy_openblas.so"
# By their sonames; pip puts MKL's into the environment's own lib folder.
_OF_THE_MACHINE = ("libmkl_rt.so.3", "libmkl_rt.so.2", "libopenblas.so.0")

# Else MKL's sums depend on the number of threads and on the alignment of arrays; read by MKL when
# it is first called.
_MKL_CBWR = "AVX2,STRICT"


class UnusableError(Exception):
    """A library that cannot do MLX's products; the message says why, for the user."""


@dataclass(frozen=True)
class Library:
    """An open BLAS with 32-bit integers."""

    path: str
    version: str
    """Name, version and the kernels that it chose for this processor: other ones, other bits."""
    sgemm: int
    """Address of its `cblas_sgemm`."""
    set_threads: Callable[[int], object] | None
    """None where we do not know how."""


def find() -> Library | str:
    """The library to use, or the reason why there is none but MLX's own.

    Raises ConfigError for a `GRPO_BLAS` that cannot be used.
    """
    wanted = os.environ.get(ENV, "")
    if wanted == REFERENCE:
        return f"{ENV}={REFERENCE}"
    if wanted:
        return _asked_for(wanted)
    for path in _candidates():
        try:
            return open_library(path)
        except UnusableError:
            continue
    return f"no other library found; mend it with: pip install {_PACKAGE.replace('_', '-')}"


def _asked_for(path: str) -> Library:
    try:
        if not sys.platform.startswith("linux"):
            raise UnusableError("only Linux can use another BLAS")
        if not Path(path).is_file():
            raise UnusableError("there is no such file")
        return open_library(str(Path(path).absolute()))
    except UnusableError as error:
        raise ConfigError(
            f"{ENV} = {path!r}: {error}; give the path of a library that exports cblas_sgemm, "
            f"or {REFERENCE!r} for MLX's own"
        ) from None


def _candidates() -> Iterator[str]:
    # Found, not imported: importing the package does more than to say where it lies.
    package = find_spec(_PACKAGE)
    for folder in (package and package.submodule_search_locations) or ():
        yield str(Path(folder, _PACKAGE_FILE))
    for name in _OF_THE_MACHINE:
        yield str(Path(sys.prefix, "lib", name))
        yield name


def open_library(path: str) -> Library:
    """Open the library at a path, or of that name; UnusableError says why it cannot be used."""
    try:
        with _one_thread():
            library = ctypes.CDLL(path)
    except OSError as error:
        raise UnusableError(f"it cannot be loaded ({error})") from None
    for prefix in ("scipy_", ""):
        if hasattr(library, f"{prefix}cblas_sgemm"):
            return _known(library, path, prefix)
    raise UnusableError("it exports no cblas_sgemm")


class _one_thread:
    """Within it OpenBLAS starts no threads when it is loaded: not one for every processor."""

    _ENV = "OPENBLAS_NUM_THREADS"

    def __enter__(self) -> None:
        self._before = os.environ.get(self._ENV)
        os.environ[self._ENV] = "1"

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ[self._ENV]
        else:
            os.environ[self._ENV] = self._before


def _known(library: Any, path: str, prefix: str) -> Library:
    address = ctypes.cast(getattr(library, f"{prefix}cblas_sgemm"), ctypes.c_void_p).value
    assert address is not None
    if hasattr(library, f"{prefix}openblas_get_config"):
        config = _text(library, f"{prefix}openblas_get_config")
        if "USE64BITINT" in config:
            raise UnusableError("its integers have 64 bits, MLX's 32")
        core = _text(library, f"{prefix}openblas_get_corename")
        set_threads = getattr(library, f"{prefix}openblas_set_num_threads")
        return Library(path, f"{' '.join(config.split()[:2])} {core}", address, set_threads)
    if hasattr(library, "MKL_Get_Version_String"):
        mode = os.environ.setdefault("MKL_CBWR", _MKL_CBWR)
        buffer = ctypes.create_string_buffer(200)
        library.MKL_Get_Version_String(buffer, len(buffer))
        found = re.search(r"Version ([\d.]+)", buffer.value.decode())
        version = f"MKL {found[1] if found else '?'} {mode}"
        return Library(path, version, address, library.MKL_Set_Num_Threads)
    return Library(path, Path(path).name, address, None)


def _text(library: Any, function: str) -> str:
    ask = getattr(library, function)
    ask.restype = ctypes.c_char_p
    answer: bytes = ask()
    return answer.decode()
