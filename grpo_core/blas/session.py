"""The BLAS of this process: which one MLX was led to, its threads, and a line that says so."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from grpo_core.blas.library import Library, UnusableError
from grpo_core.blas.redirect import redirect
from grpo_core.blas.threads import most_threads, threads_for

OWN = "MLX's own"


@dataclass(frozen=True)
class Blas:
    """What multiplies fp32 matrices in this process."""

    version: str
    """As recorded with a run; empty where it is the device's own (a GPU, or Accelerate)."""
    library: Library | None = None
    """What MLX's calls are led to."""
    why_own: str = ""
    """Why they are not."""


_current = Blas("")


def current() -> Blas:
    """What was installed in this process."""
    return _current


def install(found: Library | str) -> Blas:
    """Lead MLX's products to a library, or keep the reason why not; only on a CPU under Linux."""
    global _current
    _current = _installed(found)
    return _current


def _installed(found: Library | str) -> Blas:
    if not sys.platform.startswith("linux"):
        return Blas("")
    if mx.default_device() != mx.cpu:
        return Blas("")
    if isinstance(found, str):
        return Blas(OWN, why_own=found)
    try:
        redirect(Path(mx.__file__).parent / "lib" / "libmlx.so", found)
    # OSError: what Linux says of the process's memory cannot be read.
    except (UnusableError, OSError) as error:
        return Blas(OWN, why_own=f"{found.version} cannot take its place: {error}")
    return Blas(found.version, found)


def use_threads(before: int, parameters: int, say: Callable[[str], None]) -> int:
    """Set the threads, say what multiplies and with how many, and return their number.

    `before` is what the run began with, which stays (another number, other bits); 0 for a new run,
    whose number follows from its model's `parameters`. 0 is returned where it cannot be set.
    """
    blas = current()
    if not blas.version:
        return before
    if blas.library is None:
        say(f"[blas] {OWN}, some 30 times slower than a good one: {blas.why_own}")
        return before
    if blas.library.set_threads is None:
        say(f"[blas] {blas.version}, with as many threads as it likes")
        return before
    most = most_threads()
    threads = before or threads_for(parameters, most)
    blas.library.set_threads(threads)
    more = f" as before, though {most} may be used now" if threads > most else ""
    say(f"[blas] {blas.version}, {threads} thread{'s' * (threads > 1)}{more}")
    return threads
