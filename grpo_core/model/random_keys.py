"""Random keys that are pure functions of their arguments: no draw depends on an earlier one.

A key is a hash of what the draw is for (seed, update, prompt, sample, ...), so the size of a
batch, its order and a resume change nothing. `rollout/` and `adapters.py` draw with them.
"""

import hashlib
from collections.abc import Sequence

import mlx.core as mx
import numpy as np

Key = tuple[int, int]
"""Two 32-bit words, as `mx.random` takes them; plain integers until the device needs them."""


def derive_key(purpose: str, *numbers: int) -> Key:
    """The key of one purpose: BLAKE2b over the name and the numbers."""
    text = ":".join([purpose, *(str(int(number)) for number in numbers)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "big"), int.from_bytes(digest[4:], "big")


def sample_key(seed: int, update: int, prompt: int, sample: int, round: int = 0) -> Key:
    """The key of one completion.

    `prompt` is the row's number in its data set, `sample` the number within the group, `round`
    counts further draws of the same group (`zero_variance = "resample"`).
    """
    return derive_key("sample", seed, update, prompt, sample, round)


def to_array(keys: Sequence[Key]) -> mx.array:
    """Keys for the device: uint32 [N, 2]."""
    return mx.array(np.array(keys, dtype=np.uint32).reshape(-1, 2))


def shuffled(count: int, purpose: str, *numbers: int) -> list[int]:
    """The numbers 0 to count - 1 in a random order that depends on nothing but the arguments."""
    return sorted(range(count), key=lambda item: (derive_key(purpose, *numbers, item), item))
