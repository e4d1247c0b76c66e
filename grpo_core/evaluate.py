"""The score of fixed held-out rows: greedy, or of several sampled answers, with 95% intervals.

Exact match where rows have reference answers (with several answers a row, pass@k), and the mean
reward always. The draws depend on the row and the answer's number only, not on the run's seed or
the update: runs and updates are compared on the same draws, and a reloaded model gives the same
numbers again.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.data.thinking import answer_of
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import derive_key
from grpo_core.rewards.builtin import Rewards, combine, is_correct, known_mean
from grpo_core.rollout.generate import MAX_ROWS, Group, generate_groups
from grpo_core.rollout.sample_line import sample_line
from grpo_core.rollout.sampling import Sampling
from grpo_core.run.protocol import INTERVALS

# Past this share of cut answers, the score measures the limit as much as the model.
TRUNCATED_TOO_OFTEN = 0.1

# The 97.5% quantile of the normal distribution.
_Z = 1.959963984540054

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `n` rows scored: one number a row and score, with 95% intervals of their means."""

    split: str
    n: int
    right: int | None
    """Rows of which at least one answer was right; None without reference answers."""
    truncated_frac: float
    """Share of answers that eval_max_new_tokens cut."""
    rewards: dict[str, list[float]] = field(default_factory=dict)
    """By name, and their weighted sum by the name "": each row's mean over its answers, NaN where
    that is missing."""
    shown: tuple[dict[str, Any], ...] = ()
    """The answers to the first rows, as samples.jsonl has them."""

    @property
    def em(self) -> float | None:
        """The share of rows that are right; with several answers a row, pass@k."""
        return None if self.right is None else self.right / self.n

    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        return {
            **self._exact_match(),
            "split": self.split,
            "n": self.n,
            "eval_truncated_frac": self.truncated_frac,
            **dict(self._mean_rewards()),
        }

    def score(self, metric: str) -> dict[str, Any]:
        """A score with what it rests on; `metric` is em or eval_reward. Empty without a number."""
        line = self.line()
        if line.get(metric) is None:
            return {}
        return {name: line[name] for name in (metric, "n", INTERVALS[metric])}

    def _exact_match(self) -> dict[str, Any]:
        if self.right is None:
            return {}
        return {"em": self.em, "ci95": list(wilson(self.right, self.n))}

    def _mean_rewards(self) -> Iterator[tuple[str, Any]]:
        for name, values in self.rewards.items():
            known = [value for value in values if not math.isnan(value)]
            mean = math.fsum(known) / len(known) if known else None
            yield f"eval_reward/{name}" if name else "eval_reward", mean
            if not name:
                yield INTERVALS["eval_reward"], mean_interval(known)


def evaluate(
    policy: Policy,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    split: str,
    rewards: Rewards,
    should_stop: Callable[[], bool] | None = None,
    most_rows: int = MAX_ROWS,
) -> Evaluation:
    """Answer every prompt, compare with its reference answer, and score by `rewards`.

    At most `most_rows` decode together, in the batches that `rollout` makes. Raises Interrupted
    soon after `should_stop()`, and RewardError.
    """
    sampling = Sampling(
        temperature=cfg.eval_temperature,
        max_tokens=cfg.eval_max_new_tokens,
        stop=tuple(cfg.stop),
    )
    answers = range(cfg.eval_num_generations)
    keys = [[derive_key("eval", p.example.index, answer) for answer in answers] for p in prompts]
    ids = [prompt.ids for prompt in prompts]
    groups = generate_groups(policy, ids, len(answers), keys, sampling, should_stop, most_rows)
    finished = [done for group in groups for done in group.finished]
    values = _values(prompts, groups, rewards, should_stop or (lambda: False))
    return Evaluation(
        split=split,
        n=len(prompts),
        right=_right(prompts, groups),
        truncated_frac=finished.count(False) / len(finished),
        rewards={
            name: [known_mean(row) for row in each.reshape(-1, len(answers))]
            for name, each in values.items()
        },
        shown=tuple(_shown(prompts, groups, values, cfg.log_completions)),
    )


def _right(prompts: Sequence[Prompt], groups: Sequence[Group]) -> int | None:
    """Rows that are solved; None where rows have no reference answers."""
    if prompts[0].example.answer is None:
        return None
    return sum(_is_solved(prompt, group) for prompt, group in zip(prompts, groups, strict=True))


def _is_solved(prompt: Prompt, group: Group) -> bool:
    wanted = prompt.example.answer
    assert wanted is not None  # A data set has reference answers in every row, or in none.
    answers = (answer_of(prompt.opening + text) for text in group.texts)
    return any(is_correct(answer, wanted) for answer in answers)


def _values(
    prompts: Sequence[Prompt],
    groups: Sequence[Group],
    rewards: Rewards,
    should_stop: Callable[[], bool],
) -> dict[str, np.ndarray]:
    """The reward of each answer [N] by name, and their weighted sum by the name ""."""
    texts, ids = [group.texts for group in groups], [group.completions for group in groups]
    values = rewards.of_groups(prompts, texts, ids, should_stop)
    return {"": combine(values, rewards.weights), **dict(zip(rewards.names, values, strict=True))}


def _shown(
    prompts: Sequence[Prompt], groups: Sequence[Group], values: dict[str, np.ndarray], count: int
) -> Iterator[dict[str, Any]]:
    """The first answer to each of the first `count` rows: the same rows at each evaluation."""
    answers = len(groups[0].texts)
    for number, (prompt, group) in enumerate(zip(prompts[:count], groups, strict=False)):
        rewards = {name: each[number * answers] for name, each in values.items()}
        yield sample_line(prompt, group, 0, rewards.pop(""), rewards)


def mean_interval(values: Sequence[float]) -> list[float] | None:
    """The 95% interval of a mean by Student's t; None for fewer than two values.

    The quantile of t is Abramowitz and Stegun's expansion (26.7.5), to 0.1% from 8 rows on.
    """
    n = len(values)
    if n < 2:
        return None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    off = _t_quantile(n - 1) * error
    return [mean - off, mean + off]


def _t_quantile(degrees: int) -> float:
    z = _Z
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return math.fsum(term / degrees**power for power, term in enumerate(terms))


def wilson(right: int, n: int) -> Interval:
    """The 95% score interval of a share (Wilson 1927): sensible at 0, at 1 and for few rows."""
    share = right / n
    spread = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
    middle = share + _Z**2 / (2 * n)
    scale = 1 + _Z**2 / n
    # At the ends rounding would put the bound a hair outside.
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def truncation_warning(done: Evaluation, cfg: MLXGRPOConfig) -> str:
    """A line for the user where the limit cuts too many answers, else empty."""
    if done.truncated_frac <= TRUNCATED_TOO_OFTEN:
        return ""
    return (
        f"[eval] {done.truncated_frac:.0%} of the answers ({done.split}) were cut at "
        f"eval_max_new_tokens = {cfg.eval_max_new_tokens}; the score is too low for it, raise it"
    )
