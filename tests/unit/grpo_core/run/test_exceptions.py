"""Raw errors of the device and the disk become ours, with what to do."""

import errno
import os
import socket
from types import SimpleNamespace

import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import (
    ConfigError,
    DataError,
    DiskFull,
    GPUFault,
    HubAway,
    ModelError,
    OutOfMemory,
)
from grpo_core.run.exceptions import can_shrink, explain

# As MLX 0.32, Metal and the field's bug reports have them.
MALLOC = "[metal::malloc] Attempting to allocate 44040192000 bytes which is greater than the max"
RESOURCES = "[metal::malloc] Resource limit (499000) exceeded."
CPU_MALLOC = "[malloc] Unable to allocate 1099511627776 bytes."
QUEUE = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
TIMEOUT = (
    "[METAL] Command buffer execution failed: Caused GPU Timeout Error "
    "(00000002:kIOGPUCommandBufferCallbackErrorTimeout)"
)
INTERACTIVITY = (
    "[METAL] Command buffer execution failed: Impacting Interactivity "
    "(0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)"
)
HANG = (
    "[METAL] Command buffer execution failed: Caused GPU Hang Error "
    "(00000003:kIOGPUCommandBufferCallbackErrorHang)"
)
CUDA = "[CudaAllocator] cudaMalloc failed: out of memory"
WRITER = "[write] Unable to write 3900096 bytes to file."


@pytest.mark.parametrize(
    ("text", "kind", "shrinks"),
    [
        (MALLOC, OutOfMemory, True),
        (RESOURCES, GPUFault, False),
        (CPU_MALLOC, OutOfMemory, True),
        (CUDA, OutOfMemory, True),
        (QUEUE, OutOfMemory, False),
        (TIMEOUT, GPUFault, False),
        (INTERACTIVITY, GPUFault, False),
        (HANG, GPUFault, False),
        (WRITER, DiskFull, False),
    ],
)
def test_text_tells_the_kind(text, kind, shrinks):
    """Memory, watchdog, hang and disk; only memory refused before the queue can be tried again."""
    error = explain(RuntimeError(text), MLXGRPOConfig())
    assert type(error) is kind
    assert text in str(error)
    assert can_shrink(RuntimeError(text)) is shrinks


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_told_by_errno(number):
    """With the file's name where Python knows it."""
    error = explain(OSError(number, "No space left on device", "out/log.jsonl"))
    assert type(error) is DiskFull
    assert str(error).startswith("out/log.jsonl: No space left")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.EROFS])
def test_a_file_that_cannot_be_used_is_named(number):
    """In one message, no traceback; tried again as a crash is, since a disk may come back."""
    found = explain(OSError(number, os.strerror(number), "out/training_log.jsonl"))
    assert found.exit_code == 1
    assert str(found) == f"out/training_log.jsonl: cannot be used: {os.strerror(number)}"
    assert explain(OSError(number, os.strerror(number))) is None


def test_full_disk_behind_another_error_is_the_news():
    """A download that met a full disk is no fault of the model's name."""
    model = ModelError("not to be had from the hub")
    model.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert type(explain(model)) is DiskFull
    model.__cause__ = OSError(errno.ENOENT, "No such file")
    assert explain(model) is model


def test_memory_words_name_values_to_lower():
    """The values as they are, and nothing that is already at its least."""
    cfg = MLXGRPOConfig(num_generations=64, max_new_tokens=512, micro_batch_size=1)
    words = str(explain(RuntimeError(MALLOC), cfg))
    assert "num_generations below 64" in words
    assert "max_new_tokens below 512" in words
    assert "micro_batch_size" not in words


def test_ours_stays_and_bugs_stay_bugs():
    """What is not known is not dressed up."""
    ours = ConfigError("x")
    assert explain(ours) is ours
    assert explain(MemoryError()).exit_code == 4
    for bug in (TypeError("x"), RuntimeError("[matmul] shapes"), PermissionError(13, "denied")):
        assert explain(bug) is None


@pytest.mark.parametrize("text", [INTERACTIVITY, TIMEOUT])
def test_watchdog_message_says_what_helps(text):
    """A display that sleeps; fewer operations in a command and smaller batches change nothing."""
    words = str(explain(RuntimeError(text), MLXGRPOConfig()))
    assert "pmset displaysleepnow" in words
    assert "mlx #3267" in words
    assert "micro_batch_size" not in words
    assert "MLX_MAX_OPS_PER_BUFFER" not in words


def test_too_many_buffers_are_cured_by_a_new_process():
    """The limit counts buffers, not bytes: nothing needs to be lowered."""
    words = str(explain(RuntimeError(RESOURCES), MLXGRPOConfig()))
    assert "goes on from its checkpoint" in words
    assert "mlx #4464" in words
    assert "num_generations" not in words


def raised(ours, met, hidden):
    """One of our errors as it is raised where another one is met, with `from None` or `from`."""
    try:
        try:
            raise met
        except type(met) as error:
            raise ours from (None if hidden else error)
    except (DataError, ModelError, ConfigError) as error:
        return error


class _Answer(Exception):
    """As the hub's library raises an answer of the server."""

    def __init__(self, status):
        super().__init__(f"{status}")
        self.response = SimpleNamespace(status_code=status)


@pytest.mark.parametrize(
    ("met", "away"),
    [
        (ConnectionError("Couldn't reach 'a/b' on the Hub (LocalEntryNotFoundError)"), True),
        (ConnectionRefusedError(111, "Connection refused"), True),
        (socket.gaierror(-2, "Name or service not known"), True),
        (TimeoutError("timed out"), True),
        (_Answer(503), True),
        (_Answer(429), True),
        (_Answer(404), False),
        (_Answer(401), False),
        (FileNotFoundError("no such file"), False),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"), False),
    ],
)
@pytest.mark.parametrize("hidden", [True, False])
@pytest.mark.parametrize("kind", [DataError, ModelError])
def test_a_hub_that_is_away_is_not_wrong_data(met, away, hidden, kind):
    """What the network did may be over in a minute; a wrong name stays wrong."""
    error = explain(raised(kind("not to be had"), met, hidden))
    assert type(error) is (HubAway if away else kind)
    assert str(error) == "not to be had"
    assert type(explain(raised(ConfigError("x"), met, hidden))) is ConfigError
