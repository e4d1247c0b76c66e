"""Sobol points: the published sequence, and what scrambling must leave as it is."""

import itertools

import pytest

from orchestrator.search.sobol import MAX_DIMENSIONS, sobol

# Joe and Kuo's numbers as scipy.stats.qmc.Sobol(21, scramble=False) gives them (scipy 1.17).
GOLDEN = {
    0: (0.0, 0.5, 0.75, 0.25, 0.875, 0.4140625, 0.2197265625, 0.000244140625),
    3: (0.0, 0.5, 0.25, 0.75, 0.375, 0.7265625, 0.6767578125, 0.901611328125),
    20: (0.0, 0.5, 0.25, 0.75, 0.625, 0.7578125, 0.5224609375, 0.225830078125),
}


def leading_bits_shared(a, b):
    """How many binary digits two numbers of the unit interval have in common at the front."""
    return 32 - (int(a * 2**32) ^ int(b * 2**32)).bit_length()


@pytest.mark.parametrize("dimension", GOLDEN)
def test_below_the_scrambling_lies_the_published_sequence(dimension):
    """The points 0, 1, 2, 3, 5, 100, 1000 and 4095, as far as Owen's scrambling leaves them.

    It permutes nested halves, so each pair of points shares as many leading bits as before.
    """
    drawn = [sobol(i, dimension, 5) for i in (0, 1, 2, 3, 5, 100, 1000, 4095)]
    pairs = itertools.combinations(zip(drawn, GOLDEN[dimension], strict=True), 2)
    for (a, plain_a), (b, plain_b) in pairs:
        assert leading_bits_shared(a, b) == leading_bits_shared(plain_a, plain_b)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_each_slice_of_each_axis_holds_one_point(seed):
    """Scrambled or not, 2**k points in a row fill 2**k slices."""
    for dimension in range(MAX_DIMENSIONS):
        for k, start in ((4, 0), (6, 64), (8, 512)):
            points = [sobol(start + i, dimension, seed) for i in range(2**k)]
            assert sorted(int(p * 2**k) for p in points) == list(range(2**k))


def test_pairs_of_the_first_axes_fill_every_box():
    """The first two axes are a (0, 2)-sequence: 64 points in all boxes of area 1/64."""
    points = [(sobol(i, 0, 7), sobol(i, 1, 7)) for i in range(64)]
    for wide in range(7):
        cells = {(int(x * 2**wide), int(y * 2 ** (6 - wide))) for x, y in points}
        assert len(cells) == 64


def test_seeds_give_different_points_within_the_unit_interval():
    """And the same seed the same ones."""
    drawn = {seed: tuple(sobol(i, 2, seed) for i in range(32)) for seed in range(20)}
    assert len(set(drawn.values())) == 20
    assert all(0 < p < 1 for points in drawn.values() for p in points)
    assert drawn[3] == tuple(sobol(i, 2, 3) for i in range(32))


def test_axes_are_scrambled_independently():
    """No two axes of a scrambled point are the same sequence."""
    axes = [tuple(sobol(i, d, 1) for i in range(16)) for d in range(MAX_DIMENSIONS)]
    assert all(a != b for a, b in itertools.combinations(axes, 2))
