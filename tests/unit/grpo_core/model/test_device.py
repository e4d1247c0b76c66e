"""Which device computes, and how much of its memory a run may take, by what MLX says of it."""

import json

import mlx.core as mx
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import ConfigError
from grpo_core.model import device
from grpo_core.model.device import (
    apply_limits,
    cache_bytes,
    device_name,
    gpu_room_bytes,
    planned_bytes,
    room_bytes,
    use_device,
)

GB, GIB = 10**9, 2**30
M4_PRO = {
    "device_name": "Apple M4 Pro",
    "memory_size": 48 * GIB,
    "max_recommended_working_set_size": 40 * GB,
}


class Machine:
    """What MLX finds there: whether it has a GPU backend, and what its GPU answers."""

    def __init__(self, backend, info):
        self.default = mx.Device(mx.gpu if backend else mx.cpu)
        self.is_available = lambda kind: backend
        self.default_device = lambda: self.default
        self.set_default_device = lambda chosen: setattr(self, "default", chosen)
        self._info = info

    def device_info(self, asked=None):
        """As MLX's, which raises where no device can be had."""
        if (asked or self.default) == mx.cpu:
            return {"device_name": "x86"}
        if isinstance(self._info, Exception):
            raise self._info
        return self._info


@pytest.fixture
def machine(monkeypatch):
    """Make a machine, and let MLX be asked there."""
    monkeypatch.delenv("GRPO_DEVICE", raising=False)

    def make(backend=True, info=M4_PRO):
        made = Machine(backend, info)
        for name in ("is_available", "default_device", "set_default_device", "device_info"):
            monkeypatch.setattr(mx, name, getattr(made, name))
        return made

    return make


NO_DEVICE = RuntimeError("[metal::load_device] No Metal device found.")


@pytest.mark.parametrize(
    ("wanted", "backend", "info", "computes", "said"),
    [
        ("", True, M4_PRO, "gpu (Apple M4 Pro)", []),
        ("gpu", True, M4_PRO, "gpu (Apple M4 Pro)", []),
        ("cpu", True, M4_PRO, "cpu", ["[device] GRPO_DEVICE=cpu: training on the CPU"]),
        # Metal is there on every Mac, and its device is not: never asked for where none is wanted.
        ("cpu", True, NO_DEVICE, "cpu", ["[device] GRPO_DEVICE=cpu: training on the CPU"]),
        (
            *("", True, NO_DEVICE, "cpu"),
            [
                "[device] there is no GPU that can be used ([metal::load_device] No Metal device "
                "found.): training on the CPU"
            ],
        ),
        ("", False, {}, "cpu", []),
        ("cpu", False, {}, "cpu", []),
    ],
)
def test_what_is_wanted_computes_else_what_can(
    machine, monkeypatch, wanted, backend, info, computes, said
):
    """A line where that is not what MLX would have taken; asked again, nothing more is said."""
    machine(backend, info)
    monkeypatch.setenv("GRPO_DEVICE", wanted)
    heard = []
    use_device(heard.append)
    use_device(heard.append)
    assert (device_name(), heard) == (computes, said)


@pytest.mark.parametrize(
    ("backend", "info", "why"),
    [
        (False, {}, "MLX as it is installed here has no GPU"),
        (True, NO_DEVICE, "there is no GPU that can be used ([metal::load_device] No Metal"),
    ],
)
def test_a_gpu_that_is_wanted_and_not_there_is_a_fault(machine, monkeypatch, backend, info, why):
    """Nobody who asks for the GPU wants a night on the CPU."""
    machine(backend, info)
    monkeypatch.setenv("GRPO_DEVICE", "gpu")
    with pytest.raises(ConfigError) as error:
        use_device(print)
    assert str(error.value).startswith(f"GRPO_DEVICE = 'gpu': {why}")


@pytest.mark.parametrize(
    ("memory_gib", "advised_gb", "room_gb"),
    [(16, 12, 8.4), (23.9, 18, 12.6), (24, 18, 15.3), (48, 40, 34), (192, 150, 127.5)],
)
def test_a_small_mac_keeps_more_for_others(memory_gib, advised_gb, room_gb):
    """70% of what is advised below 24 GB, 85% from there on."""
    info = {
        "memory_size": round(memory_gib * GIB),
        "max_recommended_working_set_size": advised_gb * GB,
    }
    assert room_bytes(info) == room_gb * GB


def test_a_cuda_gpu_has_room_by_its_memory():
    """It advises nothing, and says how much there is: MLX's words on CUDA."""
    info = {"device_name": "NVIDIA H100", "total_memory": 80 * GB, "free_memory": 79 * GB}
    assert (room_bytes(info), cache_bytes(info)) == (68 * GB, 8 * GB)


def test_a_plan_leaves_room_for_what_cuda_keeps_in_flight(machine):
    """On an H200 the peak was 1.7 times the estimate; Metal's estimates hold as they are."""
    made = machine(info={"device_name": "NVIDIA H100", "total_memory": 70 * GB})
    assert planned_bytes() == 34 * GB
    made = machine()
    assert planned_bytes() == gpu_room_bytes() == 34 * GB
    made.default = mx.Device(mx.cpu)
    assert planned_bytes() == 0


@pytest.mark.parametrize(
    ("advised_gb", "cache_gb"), [(3, 0.5), (5, 0.5), (12, 1.2), (40, 4), (80, 8), (150, 8)]
)
def test_the_cache_of_buffers_grows_with_the_machine(advised_gb, cache_gb):
    """A tenth of what is advised, 0.5 GB at the least and 8 at most."""
    assert cache_bytes({"max_recommended_working_set_size": advised_gb * GB}) == cache_gb * GB


def test_what_advises_nothing_sets_no_limit():
    """A CPU, or a backend that does not say."""
    assert (room_bytes({}), cache_bytes({"memory_size": 8 * GIB})) == (0, 0)


@pytest.fixture
def limits(monkeypatch):
    """What MLX is told, by name."""
    told = {}
    for name in ("memory", "cache"):
        monkeypatch.setattr(
            mx, f"set_{name}_limit", lambda size, name=name: told.__setitem__(name, size)
        )
    return told


def test_limits_are_those_of_the_device_unless_configured(machine, limits):
    """On the GPU by what it advises, on the CPU none; a number of one's own counts on both."""
    made = machine()
    apply_limits(MLXGRPOConfig())
    assert limits == {"memory": 34 * GB, "cache": 4 * GB}
    assert gpu_room_bytes() == 34 * GB
    limits.clear()
    made.default = mx.Device(mx.cpu)
    apply_limits(MLXGRPOConfig())
    assert (limits, gpu_room_bytes()) == ({}, 0)
    apply_limits(MLXGRPOConfig(memory_limit_gb=3.0, cache_limit_gb=0.0))
    assert limits == {"memory": 3 * GB, "cache": 0}


def test_the_doctor_is_told_in_one_line(machine, capsys):
    """Device, name, what it advises and what a run may take of it."""
    machine()
    assert device.main() == 0
    assert json.loads(capsys.readouterr().out) == {
        "device": "gpu",
        "name": "Apple M4 Pro",
        "advised_bytes": 40 * GB,
        "room_bytes": 34 * GB,
        "said": "",
    }


def test_the_doctor_is_told_what_is_wrong(machine, monkeypatch, capsys):
    """Exit code 2, and the message that a run would give."""
    machine(backend=False)
    monkeypatch.setenv("GRPO_DEVICE", "gpu")
    assert device.main() == 2
    assert capsys.readouterr().err.startswith("GRPO_DEVICE = 'gpu': MLX as it is installed")
