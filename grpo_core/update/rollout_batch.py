"""Prompts -> a rollout batch: completions sampled, rewarded, and weighed by advantages.

Draws a group for each prompt, has it judged, draws flat groups again if asked to, and turns
rewards into advantages. How tokens are drawn is in `rollout/`, the formula of the advantage in
`loss.py`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rewards.builtin import Rewards
from grpo_core.rollout.generate import MAX_ROWS, generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.run.signals import ShouldStop
from grpo_core.update.judged_groups import JudgedGroup, judge_groups, overlong
from grpo_core.update.loss import advantages
from grpo_core.update.micro_batches import Count, Sample, count
from grpo_core.update.rollout_figures import rollout_figures, shown_completions


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """What one batch of prompts gave.

    `groups` holds the samples to learn from, only those groups that have something to say;
    `skipped` counts the others, which stay in the loss's means; `figures` is what the log says of
    the draw, all of it reproducible but for times; `tokens` counts every token drawn; `shown` are
    completions for people to read.
    """

    groups: list[list[Sample]]
    skipped: Count
    figures: dict[str, float]
    tokens: int
    shown: list[dict[str, Any]]


def draw_batch(
    policy: Policy,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    update: int,
    should_stop: ShouldStop,
    most_rows: int = MAX_ROWS,
) -> RolloutBatch:
    """Draw and judge a group for each prompt, as update `update` would, whatever ran before.

    At most `most_rows` completions decode together.

    Raises RewardError, and Interrupted soon after `should_stop()`.
    """
    clock = _Clock()
    first = _draw(policy, rewards, prompts, cfg, update, 0, should_stop, clock, most_rows)
    final, redrawn = _resample(policy, rewards, first, cfg, update, should_stop, clock, most_rows)
    total = np.stack([judged.total for judged in final])
    weights = advantages(total, cfg.scale_rewards, cfg.loss_type)
    tokens = _count_tokens(first) + redrawn
    figures = rollout_figures(first, rewards.names) | clock.figures(tokens)
    if cfg.overlong_buffer:
        figures["reward/overlong"] = float(np.mean([overlong(j.group, cfg) for j in first]))
    groups = [_samples(j, weights[p], p, cfg) for p, j in enumerate(final)]
    counts = [_counts(judged, cfg) for judged in final]
    skipped = [s for g, counted in zip(groups, counts, strict=True) if not counted for s in g]
    return RolloutBatch(
        groups=[g for g, counted in zip(groups, counts, strict=True) if counted],
        skipped=count(skipped, cfg),
        figures=figures,
        tokens=tokens,
        shown=shown_completions(final[0], rewards.names, weights[0], cfg.log_completions),
    )


class _Clock:
    """Seconds spent on drawing and on judging."""

    def __init__(self) -> None:
        self.rollout_s = 0.0
        self.reward_s = 0.0

    def figures(self, tokens: int) -> dict[str, float]:
        per_s = tokens / self.rollout_s if self.rollout_s > 0 else 0.0
        return {"tokens_per_s": per_s, "rollout_s": self.rollout_s, "reward_s": self.reward_s}


def _draw(
    policy: Policy,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    update: int,
    round: int,
    should_stop: ShouldStop,
    clock: _Clock,
    most_rows: int,
) -> list[JudgedGroup]:
    """A group for each prompt, judged; the draw's keys are made of these numbers alone."""
    size = range(cfg.num_generations)
    keys = [
        [sample_key(cfg.seed, update, prompt.example.index, sample, round) for sample in size]
        for prompt in prompts
    ]
    start = time.perf_counter()
    groups = generate_groups(
        policy,
        [prompt.ids for prompt in prompts],
        cfg.num_generations,
        keys,
        Sampling.of(cfg),
        should_stop,
        most_rows,
    )
    drawn = time.perf_counter()
    judged = judge_groups(rewards, prompts, groups, cfg, should_stop)
    clock.rollout_s += drawn - start
    clock.reward_s += time.perf_counter() - drawn
    return judged


def _resample(
    policy: Policy,
    rewards: Rewards,
    first: list[JudgedGroup],
    cfg: MLXGRPOConfig,
    update: int,
    should_stop: ShouldStop,
    clock: _Clock,
    most_rows: int,
) -> tuple[list[JudgedGroup], int]:
    """Flat groups drawn anew, at most `resample_rounds` times; and the tokens that took."""
    final, tokens = list(first), 0
    rounds = cfg.resample_rounds if cfg.zero_variance == "resample" else 0
    for round in range(1, rounds + 1):
        flat = [p for p, judged in enumerate(final) if judged.is_flat]
        if not flat:
            break
        prompts = [final[p].prompt for p in flat]
        again = _draw(policy, rewards, prompts, cfg, update, round, should_stop, clock, most_rows)
        tokens += _count_tokens(again)
        for p, judged in zip(flat, again, strict=True):
            final[p] = judged
    return final, tokens


def _counts(judged: JudgedGroup, cfg: MLXGRPOConfig) -> bool:
    """Whether the group is learnt from: all with `keep`, else those with a signal."""
    return cfg.zero_variance == "keep" or not judged.is_flat


def _samples(
    judged: JudgedGroup, weights: np.ndarray, number: int, cfg: MLXGRPOConfig
) -> list[Sample]:
    group = judged.group
    sampling = group.sampling_logprobs if cfg.rollout_is != "none" else None
    return [
        Sample(
            prompt_ids=group.prompt_ids,
            completion_ids=group.completions[s],
            advantage=float(weights[s]),
            sampling_logprobs=sampling[s] if sampling is not None else None,
            truncated=not group.finished[s],
            group=number,
        )
        for s in range(len(group.completions))
    ]


def _count_tokens(judged: Sequence[JudgedGroup]) -> int:
    return sum(len(ids) for j in judged for ids in j.group.completions)
