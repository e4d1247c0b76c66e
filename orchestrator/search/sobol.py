"""Sobol points that fill the unit cube evenly, scrambled by a seed; pure, no library needed.

Direction numbers: S. Joe and F. Y. Kuo, new-joe-kuo-6.21201 (SIAM J. Sci. Comput. 30, 2008), in the
order of the Gray code. Scrambling: B. Burley, Practical Hash-based Owen Scrambling (JCGT 9, 2020).
Every 2**k points in a row from a multiple of 2**k hold one in each of the 2**k slices of an axis.
"""

import functools
import hashlib

_BITS = 32
_SCALE = float(1 << _BITS)
_MASK = (1 << _BITS) - 1

# For each dimension after the first: the primitive polynomial with its bits, and the first
# direction numbers.
_JOE_KUO: tuple[tuple[int, tuple[int, ...]], ...] = (
    (3, (1,)),
    (7, (1, 3)),
    (11, (1, 3, 1)),
    (13, (1, 1, 1)),
    (19, (1, 1, 3, 3)),
    (25, (1, 3, 5, 13)),
    (37, (1, 1, 5, 5, 17)),
    (41, (1, 1, 5, 5, 5)),
    (47, (1, 1, 7, 11, 19)),
    (55, (1, 1, 5, 1, 1)),
    (59, (1, 1, 1, 3, 11)),
    (61, (1, 3, 5, 5, 31)),
    (67, (1, 3, 3, 9, 7, 49)),
    (91, (1, 1, 1, 15, 21, 21)),
    (97, (1, 3, 1, 13, 27, 49)),
    (103, (1, 1, 1, 15, 7, 5)),
    (109, (1, 3, 1, 15, 13, 25)),
    (115, (1, 1, 5, 5, 19, 61)),
    (131, (1, 3, 7, 11, 23, 15, 103)),
    (137, (1, 3, 7, 13, 13, 15, 69)),
)
MAX_DIMENSIONS = len(_JOE_KUO) + 1


def sobol(index: int, dimension: int, seed: int | str) -> float:
    """One coordinate, in (0, 1), of the scrambled point number `index`, both counted from 0."""
    bits = _scrambled(_point(index, dimension), _scramble_key(seed, dimension))
    return (bits + 0.5) / _SCALE


def _point(index: int, dimension: int) -> int:
    directions = _directions(dimension)
    gray = index ^ (index >> 1)
    bits = 0
    for k in range(gray.bit_length()):
        if gray >> k & 1:
            bits ^= directions[k]
    return bits


@functools.cache
def _directions(dimension: int) -> tuple[int, ...]:
    """The direction numbers v_1, v_2, ... as 32-bit fractions."""
    if dimension == 0:
        return tuple(1 << (_BITS - 1 - k) for k in range(_BITS))
    polynomial, first = _JOE_KUO[dimension - 1]
    degree = len(first)
    v = [m << (_BITS - 1 - k) for k, m in enumerate(first)]
    for k in range(degree, _BITS):
        value = v[k - degree] ^ (v[k - degree] >> degree)
        for i in range(1, degree):
            if polynomial >> (degree - i) & 1:
                value ^= v[k - i]
        v.append(value)
    return tuple(v)


@functools.cache
def _scramble_key(seed: int | str, dimension: int) -> int:
    return int.from_bytes(hashlib.sha256(f"sobol\0{seed}\0{dimension}".encode()).digest()[:4])


def _scrambled(bits: int, key: int) -> int:
    """A nested permutation: a bit changes with the bits above it only (Laine and Karras)."""
    x = (_reversed(bits) + key) & _MASK
    for factor in (0x6C50B47C, 0xB82F1E52, 0xC7AFE638, 0x8D22F6E6):
        x ^= (x * factor) & _MASK
    return _reversed(x)


def _reversed(bits: int) -> int:
    return int(f"{bits:0{_BITS}b}"[::-1], 2)
