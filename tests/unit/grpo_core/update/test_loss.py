"""What `loss` settles before any formula; the formulas are held to `tests/oracle.py` elsewhere."""

import numpy as np
import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.update.loss import (
    Objective,
    advantages,
    decoupled_advantages,
    entropy_threshold,
)

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "sapo", "rloo", "luspo", "vespo")


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@pytest.mark.parametrize("scale", ["auto", "group", "batch", "none"])
@pytest.mark.parametrize("value", [0.7, 1e6 / 3, -2.1, 0.0])
def test_equal_rewards_have_advantages_of_exactly_zero(value, scale, loss_type):
    """Three times 0.7 over three is not 0.7 in binary, and Adam makes a full step of the rest."""
    rewards = np.array([[value] * 3, [0.0, 1.0, 5.0], [value, np.nan, value]])
    found = advantages(rewards, scale, loss_type)
    assert not found[0].any() and not found[2].any()
    assert found[1].any()


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_auto_takes_the_papers_ratio(loss_type):
    """One for a sequence with gspo, luspo, rloo and vespo, one for a token with the others."""
    how = Objective.of(MLXGRPOConfig(loss_type=loss_type))
    assert how.sequence_level == (loss_type in ("gspo", "luspo", "rloo", "vespo"))


def test_an_objective_is_read_from_the_configuration():
    """0 means: as clip_eps, for the upper width; the smaller limit is dr_grpo's divisor."""
    cfg = MLXGRPOConfig(clip_eps=0.1, max_new_tokens=64, max_completion_length=32)
    how = Objective.of(cfg)
    assert (how.eps_low, how.eps_high, how.delta, how.limit) == (0.1, 0.1, 0, 32)
    cfg.importance_sampling_level = "sequence"
    cfg.clip_eps_high = 0.3
    assert Objective.of(cfg).sequence_level
    assert Objective.of(cfg).eps_high == 0.3


def test_the_entropy_threshold_leaves_the_asked_share():
    """Of 100 different values 20% lie at or above it; 1 and nothing at all mean no threshold."""
    values = np.random.default_rng(0).permutation(100).astype(np.float32)
    assert (values >= entropy_threshold(values, 0.2)).sum() == 20
    assert entropy_threshold(values, 1.0) == -np.inf
    assert entropy_threshold(np.zeros(0, np.float32), 0.2) == -np.inf


def test_tokens_that_rounding_alone_tells_apart_learn_together():
    """Half of six: the edge falls between two that are the same but for their last digit."""
    values = np.array([0.5, 3.0, 2.0, 2.0 + 1e-6, 1.0, 4.0], np.float32)
    assert (values >= entropy_threshold(values, 0.5)).tolist() == [0, 1, 1, 1, 0, 1]
    level = np.float32(2) + np.array([0, 1e-6, 2e-6], np.float32)
    assert (level >= entropy_threshold(level, 0.3)).all()


def test_rewards_are_normalised_one_by_one_and_then_summed():
    """GDPO in numpy, step by step as the paper has it: by group, weighted sum, by batch."""
    draw = np.random.default_rng(3)
    rewards = draw.normal(0, [[[1.0]], [[100.0]]], (2, 3, 4))
    weights = np.array([2.0, 0.5])
    by_group = np.empty_like(rewards)
    for r in range(2):
        for p in range(3):
            group = rewards[r, p]
            by_group[r, p] = (group - np.mean(group)) / (np.std(group, ddof=1) + 1e-4)
    total = 2.0 * by_group[0] + 0.5 * by_group[1]
    expected = (total - np.mean(total)) / (np.std(total, ddof=1) + 1e-4)
    np.testing.assert_allclose(decoupled_advantages(rewards, weights), expected, atol=1e-9)


def test_a_group_that_teaches_nothing_has_no_decoupled_advantage():
    """Exactly 0; what is missing adds nothing, and the others of its group still differ."""
    nan = np.nan
    rewards = np.array([[[0.7, 0.7, 0.7], [1.0, nan, 0.0]], [[2.0, 2.0, 2.0], [5.0, nan, 5.0]]])
    found = decoupled_advantages(rewards, np.array([1.0, 1.0]))
    assert not found[0].any()
    assert found[1, 0] == -found[1, 2] > 0
    assert found[1, 1] == 0


def test_rewards_that_cancel_in_the_sum_teach_by_themselves():
    """What one gains the other loses: their sum is flat, and GDPO keeps both by their weights."""
    rewards = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    assert not advantages(rewards.sum(axis=0), "group", "dapo").any()
    found = decoupled_advantages(rewards, np.array([2.0, 1.0]))
    assert found[0, 0] == -found[0, 1] > 0
