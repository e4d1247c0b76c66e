"""What `loss` settles before any formula; the formulas are held to `tests/oracle.py` elsewhere."""

import numpy as np
import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.update.loss import Objective, advantages, entropy_threshold

LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "sapo", "rloo")


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
    """One for a sequence with gspo and rloo, one for a token with the others."""
    how = Objective.of(MLXGRPOConfig(loss_type=loss_type))
    assert how.sequence_level == (loss_type in ("gspo", "rloo"))


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
