"""The slots of a worker: their names, and what each sets in the environment of its trainers."""

import pytest

from grpo_core.blas.threads import available_cores
from orchestrator.errors import UsageError
from orchestrator.worker.slots import Slot, Slots


def parsed(devices, **environ):
    """What `--devices` says on Linux."""
    return Slots.parse(None, devices, environ, "linux")


def test_one_slot_changes_nothing():
    """Its trainers find the environment of the worker, as they always did."""
    for slots in (Slots.parse(None, None), Slots.parse(1, None)):
        assert slots.each({"CUDA_VISIBLE_DEVICES": "3"}) == (Slot("0", {}),)


def test_slots_share_the_cores_and_have_a_lock_each():
    """The first has the lock of a trainer by hand; a number of threads that is set stands."""
    first, second = Slots.parse(2, None).each({"GRPO_GPU_LOCK": "/l/gpu.lock"})
    assert (first.name, second.name) == ("0", "1")
    threads = str(max(1, available_cores() // 2))
    assert first.env == {"GRPO_GPU_LOCK": "/l/gpu.lock", "GRPO_THREADS": threads}
    assert second.env == {"GRPO_GPU_LOCK": "/l/gpu-1.lock", "GRPO_THREADS": threads}
    for slot in Slots.parse(2, None).each({"GRPO_THREADS": "3"}):
        assert "GRPO_THREADS" not in slot.env


def test_a_device_a_slot_is_called_as_it_is():
    """Each trainer sees its device alone, and has the lock of a trainer there by hand."""
    slots = parsed("2, 0,GPU-7f3a")
    assert slots.names == ("2", "0", "GPU-7f3a")
    envs = [slot.env for slot in slots.each({"GRPO_GPU_LOCK": "/l/gpu.lock"})]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in envs] == ["2", "0", "GPU-7f3a"]
    locks = ["/l/gpu-2.lock", "/l/gpu.lock", "/l/gpu-GPU-7f3a.lock"]
    assert [env["GRPO_GPU_LOCK"] for env in envs] == locks


@pytest.mark.parametrize("slots", [Slots(1), Slots(3), Slots(devices=("0", "GPU-7f"))])
def test_a_worker_in_the_background_gets_the_same(slots):
    """Its options say what they were read from."""
    words = dict([slots.words()])
    again = Slots.parse(
        int(words["--slots"]) if "--slots" in words else None, words.get("--devices"), {}, "linux"
    )
    assert again == slots


@pytest.mark.parametrize(
    ("devices", "environ", "message"),
    [
        ("0,,1", {}, "'nothing' is no device"),
        ("0,cpu", {}, "'cpu' is no device"),
        ("0,00", {}, "device 0 is named twice"),
        ("0,1", {"CUDA_VISIBLE_DEVICES": "1,2"}, "CUDA_VISIBLE_DEVICES=1,2 hides device 0"),
        (",".join(map(str, range(65))), {}, "no more than 64"),
    ],
)
def test_devices_that_cannot_be_are_refused(devices, environ, message):
    """Before anything is trained, and by a message that says which."""
    with pytest.raises(UsageError, match=message):
        parsed(devices, **environ)


def test_both_options_and_devices_on_a_mac_are_refused():
    """A slot is a device or a share of the machine; a Mac has one GPU."""
    with pytest.raises(UsageError, match="give one of them"):
        Slots.parse(2, "0,1", {}, "linux")
    with pytest.raises(UsageError, match="a Mac has one GPU"):
        Slots.parse(None, "0", {}, "darwin")
