"""Prompts -> a rollout batch: completions sampled, rewarded, and weighed by advantages.

Draws a group for each prompt, calls the rewards, adds the penalty for overlong completions, draws
flat groups again if asked to, and turns rewards into advantages. How a group is
drawn is in `rollout/`, what it earns in `rewards/`, the formula of the advantage in `loss.py`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rewards.builtin import Rewards, combine
from grpo_core.rollout.generate import Group, generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.loss import advantages
from grpo_core.update.micro_batches import Count, Sample, count

ShouldStop = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class Experience:
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


@dataclass(frozen=True, slots=True)
class _Judged:
    """A group and its rewards: `values` [R, G], `total` [G] with weights and penalty; NaN: none."""

    prompt: Prompt
    group: Group
    values: np.ndarray
    total: np.ndarray

    @property
    def is_flat(self) -> bool:
        """Whether the rewards tell no completion from another."""
        known = self.total[~np.isnan(self.total)]
        return known.size < 2 or bool(known.max() == known.min())


def gain_experience(
    policy: Policy,
    rewards: Rewards,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    update: int,
    should_stop: ShouldStop,
) -> Experience:
    """Draw and judge a group for each prompt, as update `update` would, whatever ran before.

    Raises RewardError, and Interrupted soon after `should_stop()`.
    """
    clock = _Clock()
    first = _draw(policy, rewards, prompts, cfg, update, 0, should_stop, clock)
    final, redrawn = _resample(policy, rewards, first, cfg, update, should_stop, clock)
    total = np.stack([judged.total for judged in final])
    weights = advantages(total, cfg.scale_rewards, cfg.loss_type)
    tokens = _count_tokens(first) + redrawn
    figures = _figures(first, rewards.names) | clock.figures(tokens)
    if cfg.overlong_buffer:
        figures["reward/overlong"] = float(np.mean([overlong(j.group, cfg) for j in first]))
    groups = [_samples(j, weights[p], p, cfg) for p, j in enumerate(final)]
    counts = [_counts(judged, cfg) for judged in final]
    skipped = [s for g, counted in zip(groups, counts, strict=True) if not counted for s in g]
    return Experience(
        groups=[g for g, counted in zip(groups, counts, strict=True) if counted],
        skipped=count(skipped, cfg),
        figures=figures,
        tokens=tokens,
        shown=_shown(final[0], rewards.names, weights[0], cfg.log_completions),
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
) -> list[_Judged]:
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
    )
    drawn = time.perf_counter()
    judged = _judge(rewards, prompts, groups, cfg, should_stop)
    clock.rollout_s += drawn - start
    clock.reward_s += time.perf_counter() - drawn
    return judged


def _judge(
    rewards: Rewards,
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    cfg: MLXGRPOConfig,
    should_stop: ShouldStop,
) -> list[_Judged]:
    n = cfg.num_generations
    values = rewards(
        [text for group in groups for text in group.texts],
        [ids for group in groups for ids in group.completions],
        [prompt.example for prompt in prompts for _ in range(n)],
        should_stop,
    )
    parts = np.split(values, len(groups), axis=1)
    return [
        _Judged(prompt, group, part, combine(part, rewards.weights) + overlong(group, cfg))
        for prompt, group, part in zip(prompts, groups, parts, strict=True)
    ]


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


def _resample(
    policy: Policy,
    rewards: Rewards,
    first: list[_Judged],
    cfg: MLXGRPOConfig,
    update: int,
    should_stop: ShouldStop,
    clock: _Clock,
) -> tuple[list[_Judged], int]:
    """Flat groups drawn anew, at most `resample_rounds` times; and the tokens that took."""
    final, tokens = list(first), 0
    rounds = cfg.resample_rounds if cfg.zero_variance == "resample" else 0
    for round in range(1, rounds + 1):
        flat = [p for p, judged in enumerate(final) if judged.is_flat]
        if not flat:
            break
        prompts = [final[p].prompt for p in flat]
        again = _draw(policy, rewards, prompts, cfg, update, round, should_stop, clock)
        tokens += _count_tokens(again)
        for p, judged in zip(flat, again, strict=True):
            final[p] = judged
    return final, tokens


def _counts(judged: _Judged, cfg: MLXGRPOConfig) -> bool:
    """Whether the group is learnt from: all with `keep`, else those with a signal."""
    return cfg.zero_variance == "keep" or not judged.is_flat


def _samples(judged: _Judged, weights: np.ndarray, number: int, cfg: MLXGRPOConfig) -> list[Sample]:
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


def _count_tokens(judged: Sequence[_Judged]) -> int:
    return sum(len(ids) for j in judged for ids in j.group.completions)


def _figures(judged: Sequence[_Judged], names: Sequence[str]) -> dict[str, float]:
    """What the log says of the first draw of each group: further draws are a choice, not a sample.

    `reward_std` is the mean over the groups of their sample deviation.
    """
    total = np.stack([j.total for j in judged])
    values = np.stack([j.values for j in judged])  # [P, R, G]
    lengths = [len(ids) for j in judged for ids in j.group.completions]
    finished = [done for j in judged for done in j.group.finished]
    by_name = {f"reward/{name}": _mean(values[:, r]) for r, name in enumerate(names)}
    return {
        "reward_mean": _mean(total),
        "reward_std": _mean(np.array([_deviation(j.total) for j in judged])),
        **by_name,
        "completion_length": float(np.mean(lengths)),
        "truncated_frac": 1 - float(np.mean(finished)),
        "frac_reward_zero_std": float(np.mean([j.is_flat for j in judged])),
    }


def _mean(values: np.ndarray) -> float:
    """The mean of what is there; NaN where nothing is."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _deviation(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def _shown(
    judged: _Judged, names: Sequence[str], weights: np.ndarray, count: int
) -> list[dict[str, Any]]:
    """The first `count` completions of a group, as samples.jsonl has them."""
    group, example = judged.group, judged.prompt.example
    return [
        {
            "row": example.line,
            "prompt": judged.prompt.text,
            "completion": group.texts[s],
            "answer": example.answer,
            "reward": float(judged.total[s]),
            "rewards": {name: float(judged.values[r, s]) for r, name in enumerate(names)},
            "advantage": float(weights[s]),
            "completion_length": len(group.completions[s]),
            "finished": group.finished[s],
        }
        for s in range(min(count, len(group.texts)))
    ]


# --- kept in a checkpoint, where an update in the midst of `num_iterations` needs them again


def to_json(experience: Experience) -> dict[str, Any]:
    """As JSON, to the last bit: a float32 is a double as well."""
    return {
        "groups": [[_plain(sample) for sample in group] for group in experience.groups],
        "skipped": asdict(experience.skipped),
        "figures": experience.figures,
        "tokens": experience.tokens,
        "shown": experience.shown,
    }


def _plain(sample: Sample) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(sample).items()
    }


def from_json(known: dict[str, Any]) -> Experience:
    """What `to_json` gave."""
    groups = [[_sample(sample) for sample in group] for group in known["groups"]]
    skipped = Count(**known["skipped"])
    return Experience(groups, skipped, known["figures"], known["tokens"], known["shown"])


def _sample(known: dict[str, Any]) -> Sample:
    arrays = {
        name: None if known[name] is None else np.array(known[name], np.float32)
        for name in ("old_logprobs", "ref_logprobs", "sampling_logprobs")
    }
    return Sample(**{**known, **arrays, "prompt_ids": tuple(known["prompt_ids"])})
