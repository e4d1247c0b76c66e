"""Files that came incomplete are known for what they are."""

import json
import struct

import pytest

from grpo_core.run.incomplete import incomplete

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def safetensors(values, ends=(8, 16)):
    """A file by the format's documentation: length, header, data."""
    tensors = {f"t{i}": {"data_offsets": [end - 8, end]} for i, end in enumerate(ends)}
    header = json.dumps({"__metadata__": {"format": "mlx"}, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + values


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "model.safetensors"])
def test_a_pointer_is_told_from_a_file(tmp_path, name):
    """What a clone without Git LFS has in place of large files."""
    file = tmp_path / name
    file.write_text(POINTER)
    assert incomplete(file).startswith("is a Git LFS pointer")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (safetensors(b"x" * 16), ""),
        (safetensors(b"x" * 9), "bytes; it is cut or broken, download it again"),
        (safetensors(b"x" * 16)[:30], "bytes and no whole header; it is cut"),
        (b"", "has 0 bytes and no whole header"),
        (struct.pack("<Q", 3) + b"{a}", "has a header that cannot be read"),
        (struct.pack("<Q", 2) + b"[]", "has a header that cannot be read"),
    ],
)
def test_a_cut_file_of_weights_is_told(tmp_path, content, fault):
    """By its own header, which says how long it is."""
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert fault in incomplete(file)
    assert bool(incomplete(file)) is bool(fault)
