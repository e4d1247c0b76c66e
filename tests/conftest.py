"""Keeps every test away from the user's own queue, caches, GPU lock and network."""

import os

import mlx.core as mx
import pytest
from hypothesis import settings

# What an example takes is the machine's doing: with a limit a busy one fails tests.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

# One GPU would be shared by as many processes as there are cores, and gives other bits. To try the
# trainer's tests on one all the same: GRPO_TEST_DEVICE=gpu.
DEVICE = os.environ.get("GRPO_TEST_DEVICE", "cpu")
# Before the first product: fp32 is then fp32 on a GPU too, and not the 19 bits of TF32.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
mx.set_default_device(mx.Device(mx.gpu if DEVICE == "gpu" else mx.cpu))


def pytest_xdist_auto_num_workers(config):
    """Two more than there are cores: a good part of the tests waits for processes and clocks."""
    return (os.cpu_count() or 1) + 2


@pytest.fixture(autouse=True)
def private_world(tmp_path_factory, monkeypatch):
    """Each test has its own home, caches and lock, and its child processes inherit them."""
    world = tmp_path_factory.mktemp("world")
    for name in ("HOME", "GRPO_SWEEP_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(world / name.lower()))
    monkeypatch.setenv("GRPO_GPU_LOCK", str(world / "gpu.lock"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("GRPO_DEVICE", DEVICE)
    for name in ("MLX_GRPO_CONFIG", "GRPO_SWEEP_CRASH_AT", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return world


@pytest.fixture
def start(tmp_path):
    """Start worker processes that are gone when the test ends, and their trainers with them."""
    from tests.queue_kit import WorkerProcess, kill_group, trainers_started

    started = []

    def run(**kwargs):
        worker = WorkerProcess(tmp_path / f"worker-{len(started)}.log", **kwargs)
        started.append(worker)
        return worker

    yield run
    for worker in started:
        if worker.process.poll() is None:
            worker.kill()
    for pid in trainers_started(tmp_path):
        kill_group(pid)
