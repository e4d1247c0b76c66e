"""Groups of completions -> their rewards, less the penalty for overlong completions.

What a completion earns is in `rewards`; here the rewards of a batch are called once and given back
to their groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.errors import RewardError
from grpo_core.rewards.builtin import LARGEST, Rewards, combine
from grpo_core.rollout.generate import Group
from grpo_core.run.signals import ShouldStop


@dataclass(frozen=True, slots=True)
class JudgedGroup:
    """A group and its rewards: `values` [R, G], `total` [G] with weights and penalty; NaN: none.

    Where a group is broken off G counts the completions that were not drawn as well.

    `teaching` [K, G] is what advantages are made of: the total alone, or each reward by itself.
    """

    prompt: Prompt
    group: Group
    values: np.ndarray
    total: np.ndarray
    teaching: np.ndarray

    @property
    def is_flat(self) -> bool:
        """Whether all rewards are equal, so that nothing can be learnt from them."""
        return all(_is_flat(each) for each in self.teaching)


def judge_groups(
    rewards: Rewards,
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    cfg: MLXGRPOConfig,
    should_stop: ShouldStop,
) -> list[JudgedGroup]:
    """The groups with their rewards, in order. Raises RewardError, and Interrupted."""
    texts, ids = [group.texts for group in groups], [group.completions for group in groups]
    values = rewards.of_groups(prompts, texts, ids, should_stop)
    parts = np.split(values, len(groups), axis=1)
    judged = []
    for prompt, group, part in zip(prompts, groups, parts, strict=True):
        penalty = overlong(group, cfg)
        total = combine(part, rewards.weights) + penalty
        teaching = total[None]
        if cfg.multi_objective_aggregation == "normalize_then_sum":
            teaching = np.vstack([part[rewards.weights != 0], penalty])
        judged.append(JudgedGroup(prompt, group, part, total, teaching))
        _must_be_countable(judged[-1], cfg)
    return judged


def _is_flat(rewards: np.ndarray) -> bool:
    known = rewards[~np.isnan(rewards)]
    return known.size < 2 or bool(known.max() == known.min())


def _must_be_countable(judged: JudgedGroup, cfg: MLXGRPOConfig) -> None:
    """RewardError where weights make of rewards what cannot be averaged."""
    largest = np.nanmax(np.abs(judged.total), initial=0.0)
    if largest > LARGEST:
        raise RewardError(
            f"the weighted sum of the rewards is {largest:g} on row {judged.prompt.example.line}, "
            f"beyond what can be averaged ({LARGEST:g}); lower reward_weights = "
            f"{cfg.reward_weights}"
        )


def overlong(group: Group, cfg: MLXGRPOConfig) -> np.ndarray:
    """The cost [G] of the last `overlong_buffer` tokens before the limit; 0 and below.

    DAPO, eq. 13: linear from 0 at limit - buffer to -overlong_penalty at the limit.
    """
    lengths = np.array([len(ids) for ids in group.completions], dtype=np.float64)
    if not cfg.overlong_buffer:
        return np.zeros_like(lengths)
    over = np.maximum(lengths - (cfg.completion_limit - cfg.overlong_buffer), 0.0)
    cost: np.ndarray = -cfg.overlong_penalty * over / cfg.overlong_buffer
    return cost
