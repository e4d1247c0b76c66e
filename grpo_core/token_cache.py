"""Texts -> token ids, remembered: a run on GSM8K's 7,473 rows starts two seconds earlier.

A sweep starts the same tokenisation over and over. What is remembered is a pure function: the key
is a digest of the tokenizer and of every text, so an entry is never stale. It is only a cache:
whatever is wrong with a file or its folder, the texts are tokenised anew.
"""

import hashlib
import importlib.metadata
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Fewer texts are tokenised sooner than a file is looked up.
MIN_TEXTS = 500
# A sweep over models or prompts needs a few; each is some 8 MB for GSM8K.
MAX_FILES = 16

Ids = list[list[int]]


def encode_texts(tokenizer: Any, texts: Sequence[str], folder: Path | None = None) -> Ids:
    """The token ids of each text, no special tokens added; `tokenizer` is mlx-lm's wrapper.

    `folder` holds the cache; by default the user's cache folder.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if len(texts) < MIN_TEXTS or backend is None:
        return _encode(tokenizer, texts)
    path = (folder or cache_folder()) / f"{_key(backend.to_str(), texts)}.npz"
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


def _read(path: Path, count: int) -> Ids | None:
    """The ids in a file, or None where it is not there, damaged, or not what it should be."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, lengths = arrays["ids"], arrays["lengths"]
        os.utime(path)
    # All that numpy and zipfile raise at a file that was cut or changed.
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError):
        return None
    if lengths.shape != (count,) or ids.shape != (int(lengths.sum()),):
        return None
    flat, ends = ids.tolist(), np.cumsum(lengths).tolist()
    return [flat[end - length : end] for end, length in zip(ends, lengths.tolist(), strict=True)]


def _write(path: Path, ids: Ids) -> None:
    lengths = np.array([len(row) for row in ids], dtype=np.int64)
    flat = np.fromiter((token for row in ids for token in row), dtype=np.int32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, ids=flat, lengths=lengths)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _prune(path.parent)
    except OSError:
        return  # a full disk or a folder without permission: then without a cache


def _prune(folder: Path) -> None:
    """Keep the files that were used last; what a killed process left goes the same way."""
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MAX_FILES:]:
        file.unlink(missing_ok=True)
