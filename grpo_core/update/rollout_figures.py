"""What training_log.jsonl and samples.jsonl say of the groups that an update drew.

Names and averages only; how a group was drawn and judged is decided elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from grpo_core.rewards.builtin import known_mean
from grpo_core.rollout.sample_line import sample_line
from grpo_core.update.judged_groups import JudgedGroup


def rollout_figures(judged: Sequence[JudgedGroup], names: Sequence[str]) -> dict[str, float]:
    """What the log says of groups of one size, which were drawn whatever they would earn.

    `reward_std` is the mean over the groups of their sample deviation.
    """
    total = np.stack([j.total for j in judged])
    values = np.stack([j.values for j in judged])  # [P, R, G]
    lengths = [len(ids) for j in judged for ids in j.group.completions]
    finished = [done for j in judged for done in j.group.finished]
    by_name = {f"reward/{name}": known_mean(values[:, r]) for r, name in enumerate(names)}
    return {
        "reward_mean": known_mean(total),
        "reward_std": _mean_deviation(total),
        **by_name,
        **{f"reward_std/{name}": _mean_deviation(values[:, r]) for r, name in enumerate(names)},
        "completion_length": float(np.mean(lengths)),
        "completion_length_min": float(min(lengths)),
        "completion_length_max": float(max(lengths)),
        "truncated_frac": 1 - float(np.mean(finished)),
        "frac_reward_zero_std": float(np.mean([j.is_flat for j in judged])),
    }


def _mean_deviation(groups: np.ndarray) -> float:
    """Of rewards [P, G], the mean over the groups of their sample deviation."""
    return known_mean(np.array([_deviation(group) for group in groups]))


def _deviation(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.std(ddof=1)) if known.size > 1 else 0.0


def shown_completions(
    judged: JudgedGroup, names: Sequence[str], weights: np.ndarray, count: int
) -> list[dict[str, Any]]:
    """The first `count` completions of a group, as samples.jsonl has them.

    `weights` are their advantages.
    """
    lines = []
    for s in range(min(count, len(judged.group.texts))):
        rewards = dict(zip(names, judged.values[:, s], strict=True))
        line = sample_line(judged.prompt, judged.group, s, judged.total[s], rewards)
        lines.append({**line, "advantage": float(weights[s])})
    return lines
