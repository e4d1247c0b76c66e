"""The real redirect, in child processes: what is written, what it multiplies, and when it is not.

Runs on Linux with MLX's CPU backend; constraints.txt pins the MLX that it passed with.
"""

import ctypes
import json
import mmap
import os
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from grpo_core.blas import redirect
from grpo_core.blas.library import UnusableError

ROOT = Path(__file__).parents[4]
ON_LINUX = sys.platform.startswith("linux")

pytestmark = pytest.mark.skipif(not ON_LINUX, reason="MLX multiplies by Accelerate on macOS")

BEGIN = """
import ctypes, json, sys
from pathlib import Path
import mlx.core as mx
import numpy as np
from grpo_core.blas import redirect, session
from grpo_core.blas.library import Library, UnusableError, find, open_library

libmlx = Path(mx.__file__).parent / "lib" / "libmlx.so"
pointers = [redirect._base(libmlx) + offset for offset in redirect._offsets(libmlx)]

def held():
    return [redirect.place_of(redirect._read(pointer)) for pointer in pointers]

def worst():
    draw = np.random.default_rng(3)
    a, b = (draw.standard_normal(s).astype(np.float32) for s in ((65, 400), (400, 130)))
    return float(abs(np.array(mx.array(a) @ mx.array(b)) - a.astype(np.float64) @ b).max())
"""


def child(code, **env):
    """What a fresh process prints last, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "GRPO_BLAS": "", **env},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_mlx_and_the_library_are_those_of_the_constraints():
    """Whoever changes one of them sees in this file whether the redirect still works."""
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    )
    for name in ("mlx", "mlx-cpu", "scipy-openblas32"):
        assert metadata.version(name) == pins[name]


def test_mlx_multiplies_by_the_other_library():
    """Every pointer holds the other library's function, and products are numpy's."""
    found = child("""
blas = session.install(find())
print(json.dumps([blas.version, blas.why_own, held(), worst()]))
""")
    version, why_own, held, worst = found
    assert version.startswith("OpenBLAS 0.3.") and why_own == ""
    folder = find_spec("scipy_openblas32").submodule_search_locations[0]
    assert held and all(file.startswith(folder) for file, _ in held)
    assert {function for _, function in held} == {"scipy_cblas_sgemm"}
    assert worst < 1e-3


def test_it_can_be_done_again():
    """A second time, and to another library: the one of MLX's own wheel, by its path."""
    [own] = Path(find_spec("mlx").submodule_search_locations[0]).parent.glob(
        "mlx_cpu.libs/libblas*"
    )
    first, second, third = child(f"""
blas = find()
states = []
for library in (blas, blas, open_library({str(own)!r})):
    redirect.redirect(libmlx, library)
    states.append(held())
print(json.dumps(states))
""")
    assert first == second
    assert all(own.samefile(file) and function == "cblas_sgemm" for file, function in third)


def test_a_read_only_pointer_is_written_and_protected_again():
    """As it lies in a library whose functions are all bound at load."""
    size = mmap.PAGESIZE
    page = mmap.mmap(-1, size)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    redirect._protect(start, size, 1)
    assert not redirect._is_writable(start + 64)
    redirect._write(start + 64, 0x1234_5678_9ABC)
    assert redirect._read(start + 64) == 0x1234_5678_9ABC
    assert not redirect._is_writable(start + 64)


def test_a_library_that_multiplies_wrongly_is_taken_out_again():
    """Its function does nothing: a reason, the pointers as before, products right."""
    reason, before, after, worst = child("""
nothing = ctypes.CFUNCTYPE(None)(lambda: None)
wrong = Library("x", "Wrong 1.0", ctypes.cast(nothing, ctypes.c_void_p).value, None)
worst()  # so that the loader has bound the function
before = held()
blas = session.install(wrong)
print(json.dumps([[blas.version, blas.why_own], before, held(), worst()]))
""")
    assert reason == ["MLX's own", "Wrong 1.0 cannot take its place: products are not numpy's"]
    assert before == after and {function for _, function in after} == {"cblas_sgemm"}
    assert worst < 1e-3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("redirect.FUNCTION = 'cblas_xgemm'", "does not call cblas_xgemm"),
        (
            "redirect.pointers_to = lambda *_: [redirect_to_getpid()]",
            "expected lies __getpid|expected lies getpid",
        ),
        ("libmlx = Path('/nowhere/libmlx.so')", "No such file"),
        ("libmlx = Path(sys.executable).resolve()", "does not call|not loaded"),
    ],
)
def test_what_is_not_as_expected_is_left_alone(change, reason):
    """No such pointer, one that holds another function, no MLX: a reason, and nothing written."""
    said, worst = child(f"""
def redirect_to_getpid():
    global kept
    kept = ctypes.c_uint64(ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value)
    return ctypes.addressof(kept) - redirect._base(libmlx)
{change}
try:
    redirect.redirect(libmlx, find())
    said = ""
except UnusableError as error:
    said = str(error)
print(json.dumps([said, worst()]))
""")
    assert any(part in said for part in reason.split("|")), said
    assert worst < 1e-3


def test_a_program_that_is_named_without_its_folder_is_no_fault(monkeypatch):
    """The loader knows the main program by the name that it was called by."""
    monkeypatch.setattr(redirect, "place_of", lambda address: ("python3", "PyMain"))
    with pytest.raises(UnusableError, match="lies PyMain"):
        redirect._must_be_the_function(0, Path("libmlx.so"))


def test_a_machine_that_tells_nothing_of_its_memory_keeps_mlxs_own():
    """As where /proc is not mounted: a reason, and no traceback."""
    version, why_own = child("""
def hidden(path):
    raise FileNotFoundError(2, "No such file", "/proc/self/maps")
redirect._is_writable = hidden
blas = session.install(find())
print(json.dumps([blas.version, blas.why_own]))
""")
    assert version == "MLX's own"
    assert "cannot take its place" in why_own and "/proc/self/maps" in why_own


def test_a_gpu_and_macos_are_left_alone():
    """Nothing is chosen there, so that nothing is recorded or reported either."""
    versions = child("""
versions = []
mx.default_device = lambda: mx.gpu
versions.append(session.install(find()).version)
mx.default_device = lambda: mx.cpu
sys.platform = "darwin"
versions.append(session.install(find()).version)
print(json.dumps(versions + held()))
""")
    assert versions[:2] == ["", ""]
    assert not any("openblas" in file for file, _ in versions[2:])
