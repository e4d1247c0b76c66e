"""Token ids of texts, kept on disk from run to run.

A sweep starts the same tokenisation over and over. What is remembered is a pure function: the key
is a digest of the tokenizer and of every text, so an entry is never stale. It is only a cache:
whatever is wrong with a file or its folder, the texts are tokenised anew.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any

import numpy as np

# Fewer texts are tokenised sooner than a file is looked up.
MIN_TEXTS = 500
# A sweep over models or prompts needs a few; each is some 8 MB for GSM8K.
MAX_FILES = 16

DIGEST_BYTES = 32

Ids = list[list[int]]


def encode_texts(tokenizer: Any, texts: Sequence[str], folder: Path | None = None) -> Ids:
    """The token ids of each text, no special tokens added; `tokenizer` is mlx-lm's wrapper.

    `folder` holds the cache; by default the user's cache folder.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if len(texts) < MIN_TEXTS or backend is None:
        return _encode(tokenizer, texts)
    path = (folder or cache_folder()) / f"{_key(backend.to_str(), texts)}.ids"
    ids = _read(path, len(texts))
    if ids is None:
        ids = _encode(tokenizer, texts)
        _write(path, ids)
    return ids


def cache_folder() -> Path:
    """Where the files lie; safe to delete at any time."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("grpo-sweep")) / "tokens"


def _encode(tokenizer: Any, texts: Sequence[str]) -> Ids:
    # The wrapper passes attributes on to the tokenizer, but not the call, which works in parallel.
    inner = getattr(tokenizer, "_tokenizer", tokenizer)
    ids: Ids = inner(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def _key(tokenizer: str, texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in (importlib.metadata.version("tokenizers"), tokenizer, *texts):
        data = text.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


# A file is the SHA-256 of what follows, the length of each text in tokens, and all ids, the last
# two as little-endian int32: nothing to parse, so nothing to go wrong in parsing.
_INT = np.dtype("<i4")


def _read(path: Path, count: int) -> Ids | None:
    """The ids in a file; None where it is not there, cut or changed."""
    try:
        content = path.read_bytes()
        os.utime(path)  # used just now: the last to be pruned
    except OSError:
        return None
    digest, body = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        return None
    numbers = np.frombuffer(body, dtype=_INT)
    lengths, ids = numbers[:count].tolist(), numbers[count:].tolist()
    ends = accumulate(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _write(path: Path, ids: Ids) -> None:
    lengths = np.array([len(row) for row in ids], dtype=_INT)
    body = lengths.tobytes() + np.fromiter(chain.from_iterable(ids), dtype=_INT).tobytes()
    # A full disk, or a folder without permission: then without a cache.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(path, hashlib.sha256(body).digest() + body)
        _prune(path.parent)


def _write_atomically(path: Path, content: bytes) -> None:
    """Beside under a name of our own, since another run may write the same file, and renamed."""
    descriptor, beside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        Path(beside).unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    """Keep the files that were used last; what a killed process left goes the same way."""
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MAX_FILES:]:
        file.unlink(missing_ok=True)
