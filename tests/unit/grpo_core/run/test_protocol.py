"""What both packages agree on: names of checkpoints, versions, and the texts of faults."""

import platform
from importlib import metadata

import pytest

from grpo_core.run.protocol import (
    MachineFault,
    checkpoint_name,
    checkpoints,
    machine_fault,
    package_versions,
)


def test_checkpoints_are_found_by_name_newest_first(tmp_path):
    """By number, not by letter; half-made ones and files have no part."""
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-x", ".grpo-tmp-checkpoint-11"):
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-12").write_text("a file")
    assert checkpoints(tmp_path) == [
        (10, tmp_path / "checkpoint-10"),
        (9, tmp_path / "checkpoint-9"),
    ]
    assert checkpoint_name(10) == "checkpoint-10"


def test_a_folder_that_is_not_there_has_no_checkpoints(tmp_path):
    """Nor has a file in its place."""
    (tmp_path / "file").touch()
    assert checkpoints(tmp_path / "none") == checkpoints(tmp_path / "file") == []


def test_versions_are_those_that_are_installed():
    """A package that is not there is left out."""
    assert package_versions(("mlx", "no-such-package")) == {
        "python": platform.python_version(),
        "mlx": metadata.version("mlx"),
    }


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("kIOGPUCommandBufferCallbackErrorHang", MachineFault.GPU_HANG),
        ("Caused GPU Hang Error (00000003)", MachineFault.GPU_HANG),
        ("Command buffer execution failed: Innocent Victim (0000000e)", MachineFault.GPU_RESET),
        (
            "[METAL] Command buffer execution failed: Discarded (victim of GPU error/recovery) "
            "(00000005:kIOGPUCommandBufferCallbackErrorInnocentVictim)",
            MachineFault.GPU_RESET,
        ),
        (
            "Ignored (for causing prior/excessive GPU errors) "
            "(00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)",
            MachineFault.GPU_RESET,
        ),
        ("[metal::malloc] Resource limit (499000) exceeded.", MachineFault.GPU_BUFFERS),
        (
            "kIOGPUCommandBufferCallbackErrorImpactingInteractivity",
            MachineFault.GPU_WATCHDOG,
        ),
        ("CUDA error: the launch timed out and was terminated", MachineFault.GPU_WATCHDOG),
        ("terminating: std::bad_alloc", MachineFault.MEMORY),
        (
            "[METAL] Command buffer execution failed: Insufficient Memory "
            "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            MachineFault.MEMORY,
        ),
        ("OSError: [Errno 28] No space left on device", MachineFault.DISK),
        ("kIOGPUCommandBufferCallbackErrorPageFault", MachineFault.GPU),
        ("Command buffer execution failed: Internal Error (0000000e:Internal)", MachineFault.GPU),
        ("kIOGPUCommandBufferCallbackErrorInvalidResource", MachineFault.GPU),
        ("[matmul] Last dimension of first input", None),
    ],
)
def test_a_text_tells_the_fault(text, fault):
    """As Metal, CUDA, the allocators and the system write them, in any case of letters."""
    assert machine_fault(text) is fault
    assert machine_fault(text.upper()) is fault
