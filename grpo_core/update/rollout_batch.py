"""Prompts -> a rollout batch: completions sampled, rewarded, and weighed by advantages.

Draws a group for each prompt, and others where groups are flat, if asked to; chooses what to learn
from, and turns its rewards into advantages. How groups are drawn is in `group_draws.py`, the choice
in `down_sampling.py`, the formula of the advantage in `loss.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.model.policy import Policy
from grpo_core.rewards.builtin import Rewards
from grpo_core.rollout.generate import MAX_ROWS
from grpo_core.run.signals import ShouldStop
from grpo_core.update.down_sampling import most_varied
from grpo_core.update.group_draws import GroupDraws
from grpo_core.update.judged_groups import JudgedGroup, overlong
from grpo_core.update.loss import advantages, decoupled_advantages
from grpo_core.update.micro_batches import NOTHING, Count, Sample, count
from grpo_core.update.rollout_figures import rollout_figures, shown_completions


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """What one batch of prompts gave.

    `groups` holds the samples to learn from, only those groups that have something to say;
    `skipped` counts the others by their prompt's place in the batch, as they stay in the loss's
    means; `figures` is what the log says of the draw, all of it reproducible but for times;
    `tokens` counts every token drawn; `flat` says of each row (its number in the data set)
    whether all rewards were equal; `shown` are completions for people to read.
    """

    groups: list[list[Sample]]
    skipped: list[Count]
    figures: dict[str, float]
    tokens: int
    shown: list[dict[str, Any]]
    flat: dict[int, bool] = field(default_factory=dict)

    def minibatch(self, first: int, last: int) -> tuple[list[list[Sample]], Count]:
        """The groups of the prompts `first` to `last` (that one left out), and what is skipped."""
        groups = [group for group in self.groups if first <= group[0].group < last]
        parts = self.skipped[first:last]
        return groups, Count(sum(p.sequences for p in parts), sum(p.tokens for p in parts))


def draw_batch(
    policy: Policy,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    update: int,
    should_stop: ShouldStop,
    most_rows: int = MAX_ROWS,
    others: Iterable[Prompt] = (),
) -> RolloutBatch:
    """Draw and judge a group for each prompt, as update `update` would, whatever ran before.

    At most `most_rows` completions decode together. `others` are prompts to draw instead of flat
    ones, in their order (`zero_variance = "refill"`). Raises RewardError, and Interrupted soon
    after `should_stop()`.
    """
    draws = GroupDraws(policy, rewards, cfg, update, should_stop, most_rows)
    first = draws.draw(prompts, 0)
    at_first = draws.tokens
    final = draws.replace_flat(first, iter(others))
    learnt = [_learnt_from(judged, cfg) for judged in final]
    pairs = zip(final, learnt, strict=True)
    teaching = np.stack([judged.teaching[:, places] for judged, places in pairs], axis=1)
    weights = _advantages(teaching, rewards, cfg)  # [P, G]
    figures = rollout_figures(draws.sample, rewards.names) | _costs(draws, at_first, final, cfg)
    if cfg.overlong_buffer:
        figures["reward/overlong"] = float(np.mean([overlong(j.group, cfg) for j in draws.sample]))
    groups = [_samples(j, learnt[p], weights[p], p, cfg) for p, j in enumerate(final)]
    counts = [_counts(judged, cfg) for judged in final]
    shown = _spread_out(weights[0], learnt[0], len(final[0].total))
    return RolloutBatch(
        groups=[g for g, counted in zip(groups, counts, strict=True) if counted],
        skipped=[
            NOTHING if counted else count(group, cfg)
            for group, counted in zip(groups, counts, strict=True)
        ],
        figures=figures,
        tokens=draws.tokens,
        flat=draws.flat,
        shown=shown_completions(final[0], rewards.names, shown, cfg.log_completions),
    )


def _advantages(teaching: np.ndarray, rewards: Rewards, cfg: MLXGRPOConfig) -> np.ndarray:
    """Of what the groups teach [K, P, G]: their totals, or their rewards and the penalty."""
    if cfg.multi_objective_aggregation == "sum_then_normalize":
        return advantages(teaching[0], cfg.scale_rewards, cfg.loss_type)
    counted = rewards.weights[rewards.weights != 0]
    return decoupled_advantages(teaching, np.append(counted, 1.0))


def _costs(
    draws: GroupDraws, at_first: int, final: Sequence[JudgedGroup], cfg: MLXGRPOConfig
) -> dict[str, float]:
    """What the draws took, and what further ones and their cost came to where there are any."""
    per_s = draws.tokens / draws.rollout_s if draws.rollout_s > 0 else 0.0
    times = {"tokens_per_s": per_s, "rollout_s": draws.rollout_s, "reward_s": draws.reward_s}
    if cfg.early_group_size:
        times |= {"broken_off_groups": draws.broken_off, "saved_tokens": draws.saved_tokens}
    if cfg.zero_variance not in ("resample", "refill"):
        return times
    useful = sum(not judged.is_flat for judged in final)
    return {"useful_groups": useful, "redrawn_tokens": draws.tokens - at_first, **times}


def _learnt_from(judged: JudgedGroup, cfg: MLXGRPOConfig) -> list[int]:
    """The places in the group of the completions that are learnt from."""
    drawn = len(judged.total)
    return most_varied(judged.total, cfg.num_train_generations or drawn)


def _spread_out(weights: np.ndarray, places: Sequence[int], size: int) -> np.ndarray:
    """Advantages by their place in the whole group; NaN where a completion was left out."""
    whole = np.full(size, np.nan)
    whole[list(places)] = weights
    return whole


def _counts(judged: JudgedGroup, cfg: MLXGRPOConfig) -> bool:
    """Whether the group is learnt from: all with `keep`, else those with a signal."""
    return cfg.zero_variance == "keep" or not judged.is_flat


def _samples(
    judged: JudgedGroup,
    places: Sequence[int],
    weights: np.ndarray,
    number: int,
    cfg: MLXGRPOConfig,
) -> list[Sample]:
    group = judged.group
    sampling = group.sampling_logprobs or group.logprobs
    return [
        Sample(
            prompt_ids=group.prompt_ids,
            completion_ids=group.completions[s],
            advantage=float(weight),
            old_logprobs=group.logprobs[s] if cfg.old_logprobs == "sampled" else None,
            sampling_logprobs=sampling[s],
            truncated=not group.finished[s],
            group=number,
        )
        for s, weight in zip(places, weights, strict=True)
        # What was not drawn has a place among the rewards, as a missing one.
        if s < len(group.completions)
    ]
