"""Token ids of texts, kept on disk from run to run.

A sweep starts the same tokenisation over and over. What is remembered is a pure function: the key
is a digest of the tokenizer and of every text, so an entry is never stale. It is only a cache:
whatever is wrong with a file or its folder, the texts are tokenised anew.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import os
from collections.abc import Sequence
from itertools import accumulate, chain
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import platformdirs

from grpo_core.run.atomic import write_atomically

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
    ids = _read(path)
    if ids is None:
        ids = _encode(tokenizer, texts)
        _write(path, ids)
    return ids


def cache_folder() -> Path:
    """Where the files lie; safe to delete at any time."""
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


# A file is numpy's npz of two arrays: the length of each text in tokens, and all ids. The zip holds
# a checksum of each, so what is damaged cannot be read.


def _read(path: Path) -> Ids | None:
    """The ids in a file; None where it is not there, cut or changed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lengths, ids = arrays["lengths"].tolist(), arrays["ids"].tolist()
        os.utime(path)  # used just now: the last to be pruned
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None
    ends = accumulate(lengths)
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _write(path: Path, ids: Ids) -> None:
    content = io.BytesIO()
    lengths = np.array([len(row) for row in ids], np.int32)
    np.savez(content, lengths=lengths, ids=np.fromiter(chain.from_iterable(ids), np.int32))
    # A full disk, or a folder without permission: then without a cache.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
        _prune(path.parent)


def _prune(folder: Path) -> None:
    """Keep the files that were used last; what a killed process left goes the same way."""
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files[MAX_FILES:]:
        file.unlink(missing_ok=True)
