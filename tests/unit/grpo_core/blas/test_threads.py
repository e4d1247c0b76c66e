"""How many threads: by the model's size, the cores there are, and what was asked for."""

import pytest

from grpo_core.blas import session, threads
from grpo_core.blas.library import Library
from grpo_core.blas.session import Blas, use_threads
from grpo_core.errors import ConfigError

OTHER = "OpenBLAS 0.3.34 Haswell"


@pytest.mark.parametrize(
    ("files", "own", "expected"),
    [
        ({}, None, None),
        ({}, "0::/", None),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu.max": "150000 100000"}, "0::/", 1.5),
        ({"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, "0::/a/b", 3.0),
        ({"a/b/cpu.max": "50000 100000", "a/cpu.max": "300000 100000"}, "0::/a/b", 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/x", None),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, "1:cpu:/x", 2.0),
    ],
)
def test_the_quota_of_a_container(tmp_path, files, own, expected):
    """Version 2 with its parents, version 1, none, and no such file system."""
    for name, content in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    if own is not None:
        (tmp_path / "own").write_text(own + "\n")
    assert threads.cgroup_quota(tmp_path / "cgroup", tmp_path / "own") == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 6), (8.0, 6), (2.5, 2), (0.5, 1)])
def test_cores_are_those_of_affinity_and_quota(monkeypatch, quota, expected):
    """The fewer; at least one."""
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(threads, "cgroup_quota", lambda *_: quota)
    assert threads.available_cores() == expected


@pytest.mark.parametrize(
    ("wanted", "cores", "expected"),
    [("", 4, 4), ("", 64, 8), ("1", 4, 1), ("3", 4, 3), ("64", 4, 4), ("12", 64, 12)],
)
def test_never_more_than_the_cores(monkeypatch, wanted, cores, expected):
    """Eight at most by itself, and what GRPO_THREADS says."""
    monkeypatch.setattr(threads, "available_cores", lambda: cores)
    monkeypatch.setenv("GRPO_THREADS", wanted)
    assert threads.most_threads() == expected


@pytest.mark.parametrize("wanted", ["0", "-1", "two", "1.5"])
def test_what_is_no_number_of_threads_is_refused(monkeypatch, wanted):
    """One message with the value."""
    monkeypatch.setenv("GRPO_THREADS", wanted)
    with pytest.raises(ConfigError, match=f"GRPO_THREADS = '{wanted}'"):
        threads.most_threads()


def test_a_small_model_takes_one_and_a_large_one_what_it_may():
    """A million parameters, and a hundred million."""
    assert threads.threads_for(1_000_000, 8) == 1
    assert threads.threads_for(135_000_000, 8) == 8


@pytest.fixture
def used(monkeypatch):
    """Numbers of threads that a library was given, on a machine with four cores."""
    given = []
    monkeypatch.setattr(session, "_current", Blas(OTHER, Library("", OTHER, 0, given.append)))
    monkeypatch.setattr(threads, "available_cores", lambda: 4)
    monkeypatch.delenv("GRPO_THREADS", raising=False)
    return given


@pytest.mark.parametrize(
    ("before", "parameters", "expected", "end"),
    [
        (0, 1_000_000, 1, "1 thread"),
        (0, 135_000_000, 4, "4 threads"),
        (2, 135_000_000, 2, "2 threads"),
        (2, 1_000_000, 2, "2 threads"),
        (6, 135_000_000, 6, "6 threads as before, though 4 may be used now"),
    ],
)
def test_a_run_keeps_its_number_of_threads(used, before, parameters, expected, end):
    """A new one is given a number; one that goes on has the old one, for the same bits."""
    said = []
    assert use_threads(before, parameters, said.append) == expected
    assert used == [expected]
    assert said == [f"[blas] {OTHER}, {end}"]


@pytest.mark.parametrize(
    ("blas", "lines"),
    [
        (Blas(""), []),
        (Blas("MLX's own", why_own="because"), ["slower than a good one: because"]),
        (Blas("libx.so", Library("", "libx.so", 0, None)), ["libx.so, with as many threads"]),
    ],
)
def test_where_threads_are_not_ours_nothing_is_set(monkeypatch, blas, lines):
    """A GPU says nothing, MLX's own what it costs, an unknown library that it decides."""
    monkeypatch.setattr(session, "_current", blas)
    said = []
    assert use_threads(0, 10**9, said.append) == 0
    assert len(said) == len(lines)
    assert all(part in line for part, line in zip(lines, said, strict=True))
