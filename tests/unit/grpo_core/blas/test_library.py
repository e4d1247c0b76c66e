"""Which library is chosen, what it is called in a run's records, and wrong settings."""

import ctypes.util
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import pytest

from grpo_core.blas import library
from grpo_core.errors import ConfigError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="for Linux only")

LIBC = ctypes.util.find_library("c")


def own_blas() -> str:
    """The reference BLAS that MLX's wheel brings along."""
    packages = Path(find_spec("mlx").submodule_search_locations[0]).parent
    [found] = packages.glob("mlx_cpu.libs/libblas*")
    return str(found)


def test_the_package_comes_first(monkeypatch):
    """With its version and the kernels it chose, and a way to set threads."""
    monkeypatch.delenv("GRPO_BLAS", raising=False)
    found = library.find()
    name, version, core = found.version.split()
    assert (name, version) == ("OpenBLAS", metadata.version("scipy-openblas32"))
    assert core
    assert found.set_threads is not None


def test_without_the_package_the_machines_own_comes(monkeypatch):
    """In order, passing over what cannot be loaded or multiplies nothing."""
    monkeypatch.delenv("GRPO_BLAS", raising=False)
    monkeypatch.setattr(library, "_PACKAGE", "no_such_package")
    monkeypatch.setattr(library, "_OF_THE_MACHINE", ("libnothing.so.9", LIBC, own_blas()))
    assert library.find().path == own_blas()


def test_with_nothing_at_all_there_is_a_reason_and_advice(monkeypatch):
    """It names the package to install."""
    monkeypatch.delenv("GRPO_BLAS", raising=False)
    monkeypatch.setattr(library, "_OF_THE_MACHINE", ())
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert library.find().endswith("pip install scipy-openblas32")


def test_reference_keeps_mlxs_own(monkeypatch):
    """The setting itself is the reason."""
    monkeypatch.setenv("GRPO_BLAS", "reference")
    assert library.find() == "GRPO_BLAS=reference"


def test_a_path_overrules_the_package(monkeypatch):
    """Of an unknown library the file's name is its version."""
    monkeypatch.setenv("GRPO_BLAS", own_blas())
    found = library.find()
    assert (found.path, found.version) == (own_blas(), Path(own_blas()).name)
    assert found.set_threads is None


def test_a_wrong_path_is_one_clear_message(monkeypatch, tmp_path):
    """Not there, no library, no cblas_sgemm, not on Linux: exit code 2 and what to give instead."""
    text = tmp_path / "text.so"
    text.write_text("not a library")
    libc = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if LIBC in line
    )
    for path, reason in (
        (tmp_path / "none.so", "there is no such file"),
        (text, "it cannot be loaded"),
        (libc, "it exports no cblas_sgemm"),
    ):
        monkeypatch.setenv("GRPO_BLAS", str(path))
        with pytest.raises(ConfigError) as raised:
            library.find()
        assert f"GRPO_BLAS = '{path}': {reason}" in str(raised.value)
        assert "or 'reference'" in str(raised.value)
        assert raised.value.exit_code == 2
    monkeypatch.setattr(library.sys, "platform", "darwin")
    with pytest.raises(ConfigError, match="only Linux"):
        library.find()


def test_loading_it_leaves_the_environment_alone(monkeypatch):
    """A reward's own numpy may use all threads."""
    for before in (None, "3"):
        if before is None:
            monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OPENBLAS_NUM_THREADS", before)
        library.open_library(own_blas())
        assert library.os.environ.get("OPENBLAS_NUM_THREADS") == before


class Fake:
    """A library by its functions."""

    def __init__(self, **functions):
        self.__dict__ = functions


def test_64_bit_integers_are_refused():
    """MLX passes 32 bits; the upper half would be whatever lay there."""
    fake = Fake(
        cblas_sgemm=ctypes.CFUNCTYPE(None)(lambda: None),
        openblas_get_config=lambda: b"OpenBLAS 0.3.30 USE64BITINT Zen MAX_THREADS=8",
    )
    with pytest.raises(library.UnusableError, match="64 bits"):
        library._known(fake, "libopenblas64.so", "")


def test_mkl_is_known_by_its_version_and_its_mode(monkeypatch):
    """Its sums are those of one instruction set, whatever the number of threads."""
    monkeypatch.setenv("MKL_CBWR", "AVX2,STRICT")

    def write_version(buffer, size):
        buffer.value = b"Intel(R) oneAPI Math Kernel Library Version 2026.2-Product Build 20261001"

    fake = Fake(
        cblas_sgemm=ctypes.CFUNCTYPE(None)(lambda: None),
        MKL_Get_Version_String=write_version,
        MKL_Set_Num_Threads=print,
    )
    found = library._known(fake, "libmkl_rt.so.3", "")
    assert (found.version, found.set_threads) == ("MKL 2026.2 AVX2,STRICT", print)
