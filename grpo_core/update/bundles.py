"""Many small arrays as a few long vectors, so that an optimizer's step has few operations.

An adapter has two small arrays a layer, and AdamW some fifteen operations an array: on a GPU each
is a launch, on a CPU some microseconds, for numbers that take less. Large arrays stay by
themselves and are not touched, as there a copy costs more than operations do.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

import mlx.core as mx

Arrays = dict[str, mx.array]

# Numbers in an array that is still joined with others, and in a vector of such.
SMALL, LONG = 1 << 17, 1 << 22

# Joined arrays begin at multiples of so many numbers, 256 bytes in 16 bits: cuBLASLt chooses its
# kernels for operands that do.
ALIGNED = 128


@dataclass(frozen=True, slots=True)
class _Bundle:
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: mx.Dtype
    ends: tuple[int, ...]
    """Where each array ends in the vector."""


class Bundles:
    """Which arrays stand in which vector, by their names, shapes and types."""

    def __init__(self, arrays: Mapping[str, mx.array]) -> None:
        self._bundles: dict[str, _Bundle] = {}
        for names in _grouped(arrays):
            sizes = (arrays[name].size for name in names)
            self._bundles[names[0]] = _Bundle(
                names=tuple(names),
                shapes=tuple(arrays[name].shape for name in names),
                dtype=arrays[names[0]].dtype,
                ends=tuple(accumulate(sizes)),
            )

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every array by its name."""
        bundles = self._bundles.values()
        return {name: shape for b in bundles for name, shape in zip(b.names, b.shapes, strict=True)}

    def join(self, arrays: Mapping[str, mx.array]) -> Arrays:
        """The vectors of these arrays, each by the name of its first. KeyError where one lacks."""
        return {key: _joined([arrays[n] for n in b.names]) for key, b in self._bundles.items()}

    def part(self, vectors: Mapping[str, mx.array]) -> Arrays:
        """The arrays of such vectors, of the vectors' type."""
        found: Arrays = {}
        for key, bundle in self._bundles.items():
            if len(bundle.names) == 1:
                found[key] = vectors[key]
                continue
            pieces = mx.split(vectors[key], list(bundle.ends[:-1]))
            for name, shape, piece in zip(bundle.names, bundle.shapes, pieces, strict=True):
                found[name] = piece.reshape(shape)
        return found

    def cast(self, vectors: Mapping[str, mx.array]) -> Arrays:
        """The vectors in the types that the arrays have in the model."""
        return {key: vectors[key].astype(bundle.dtype) for key, bundle in self._bundles.items()}


def _joined(arrays: list[mx.array]) -> mx.array:
    """A lone one stays as it is: to reshape a gradient copies it, as it often is a transpose."""
    return arrays[0] if len(arrays) == 1 else mx.concatenate([a.reshape(-1) for a in arrays])


def _grouped(arrays: Mapping[str, mx.array]) -> list[list[str]]:
    """Names whose arrays make a vector: in order, of one type, as many as are small together."""
    groups: list[list[str]] = []
    room: dict[mx.Dtype, tuple[list[str], int]] = {}
    for name in sorted(arrays):
        dtype, size = arrays[name].dtype, arrays[name].size
        if size % ALIGNED or not 0 < size <= SMALL:
            groups.append([name])
            continue
        group, held = room.get(dtype, ([], LONG))
        if held + size > LONG:
            group, held = [], 0
            groups.append(group)
        group.append(name)
        room[dtype] = group, held + size
    return groups
