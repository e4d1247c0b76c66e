"""The trainer's objectives against the numpy oracle, and the oracle against numbers by hand."""

import math

import numpy as np
import pytest

from tests import oracle
from tests.oracle import Completion, Options

# -- the oracle itself, by hand ---------------------------------------------------------------


def two_completions(**more):
    """Two tokens with advantage 1, one token with advantage -1, all on the first iteration."""
    return [
        Completion(np.array([-1.0, -2.0]), 1.0, **more),
        Completion(np.array([-0.5]), -1.0, **more),
    ]


# Slopes of the three tokens. At ratio 1 each policy term has slope -A, so only the divisors differ.
BY_HAND = {
    "grpo": (0.0, [-1 / 4, -1 / 4, 1 / 2]),
    "gspo": (0.0, [-1 / 4, -1 / 4, 1 / 2]),
    "rloo": (0.0, [-1 / 2, -1 / 2, 1 / 2]),
    "sapo": (-(2.0 - 2.0 / 1.05) / 2, [-1 / 4, -1 / 4, 1 / 2]),
    "dapo": (-1 / 3, [-1 / 3, -1 / 3, 1 / 3]),
    "bnpo": (-1 / 3, [-1 / 3, -1 / 3, 1 / 3]),
    "dr_grpo": (-1 / 8, [-1 / 8, -1 / 8, 1 / 8]),
    # -(1 (-1) + 1 (-2) - 1 (-0.5)) / 3
    "cispo": (2.5 / 3, [-1 / 3, -1 / 3, 1 / 3]),
}


@pytest.mark.parametrize("loss_type", BY_HAND)
def test_oracle_gives_the_loss_worked_by_hand(loss_type):
    """Ratio 1, lengths 2 and 1, advantages 1 and -1, limit 4: small enough for a pencil."""
    value, slopes = BY_HAND[loss_type]
    options = Options(loss_type, limit=4)
    assert oracle.loss(two_completions(), options) == pytest.approx(value, abs=1e-12)
    found = np.concatenate(oracle.gradient(two_completions(), options))
    np.testing.assert_allclose(found, slopes, atol=1e-8)


@pytest.mark.parametrize(
    ("r", "advantage", "expected"),
    [
        (1.1, 1.0, 1.1),
        (1.5, 1.0, 1.28),  # the upper width, DAPO's clip-higher
        (0.5, 1.0, 0.5),  # nothing to gain below
        (0.5, -1.0, -0.8),  # the lower width
        (1.5, -1.0, -1.5),  # no bound upwards for a bad completion ...
        (9.0, -1.0, -4.0),  # ... but clip_delta
    ],
)
def test_oracle_clips_as_the_papers_do(r, advantage, expected):
    """min(min(r, delta) A, clip(r, 1 - eps, 1 + eps_high) A), case by case."""
    options = Options(clip_eps=0.2, clip_eps_high=0.28, clip_delta=4.0)
    assert oracle.clipped(r, advantage, options) == pytest.approx(expected)


def test_oracle_advantages_by_hand():
    """(1, 0, 0, 1): mean 1/2, standard deviation with ddof 1 = sqrt(1/3)."""
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [np.nan, 4.0, 0.0, np.nan]])
    by_group = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    missing = 2.0 / (math.sqrt(8) + 1e-4)
    expected = np.array([[1, -1, -1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]) * by_group
    expected[2] = [0, missing, -missing, 0]
    np.testing.assert_allclose(oracle.advantages(rewards, "group"), expected, atol=1e-12)
    plain = [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [0, 2, -2, 0]]
    np.testing.assert_allclose(oracle.advantages(rewards, "none"), plain)


def test_oracle_leaves_one_out_by_hand():
    """(1, 2, 6): 1 - 4, 2 - 3.5, 6 - 1.5; a reward that is alone has no baseline."""
    rewards = np.array([[1.0, 2.0, 6.0], [np.nan, 3.0, np.nan]])
    np.testing.assert_allclose(oracle.leave_one_out(rewards), [[-3, -1.5, 4.5], [0, 0, 0]])


def test_oracle_estimators_by_hand():
    """With policy 1/2 and reference 1/4: d = -log 2."""
    one = Completion(np.log([0.5]), 0.0, ref=np.log([0.25]))
    log2 = math.log(2)
    assert oracle.divergence(one, "k1", 0) == pytest.approx(log2)
    assert oracle.divergence(one, "k2", 0) == pytest.approx(log2**2 / 2)
    assert oracle.divergence(one, "k3", 0) == pytest.approx(0.5 + log2 - 1)
