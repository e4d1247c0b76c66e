"""Exact match on fixed rows: greedy, or pass@k of sampled answers, with a 95% interval.

The draws depend on the row and the answer's number only, not on the run's seed or the update: runs
and updates are compared on the same draws, and a reloaded model gives the same number again.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.data.thinking import answer_of
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import derive_key
from grpo_core.rewards.builtin import is_correct
from grpo_core.rollout.generate import MAX_ROWS, Group, generate_groups
from grpo_core.rollout.sampling import Sampling

# Past this share of cut answers, exact match measures the limit as much as the model.
TRUNCATED_TOO_OFTEN = 0.1

# The 97.5% quantile of the normal distribution.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Exact match over `n` rows, with its 95% interval."""

    split: str
    n: int
    right: int
    """Rows of which at least one answer was right."""
    truncated_frac: float
    """Share of answers that eval_max_new_tokens cut."""

    @property
    def em(self) -> float:
        """The share of rows that are right; with several answers a row, pass@k."""
        return self.right / self.n

    def line(self) -> dict[str, Any]:
        """What the log says of it."""
        return {
            "em": self.em,
            "split": self.split,
            "n": self.n,
            "ci95": list(wilson(self.right, self.n)),
            "eval_truncated_frac": self.truncated_frac,
        }


def evaluate(
    policy: Policy,
    prompts: Sequence[Prompt],
    cfg: MLXGRPOConfig,
    split: str,
    should_stop: Callable[[], bool] | None = None,
    most_rows: int = MAX_ROWS,
) -> Evaluation:
    """Answer every prompt and compare with its reference answer.

    At most `most_rows` decode together, in the batches that `rollout` makes. Raises Interrupted
    soon after `should_stop()`.
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
    pairs = zip(prompts, groups, strict=True)
    finished = [done for group in groups for done in group.finished]
    return Evaluation(
        split=split,
        n=len(prompts),
        right=sum(_is_solved(prompt, group) for prompt, group in pairs),
        truncated_frac=finished.count(False) / len(finished),
    )


def _is_solved(prompt: Prompt, group: Group) -> bool:
    answers = (answer_of(prompt.opening + text) for text in group.texts)
    return any(is_correct(answer, prompt.example.answer) for answer in answers)


def wilson(right: int, n: int) -> tuple[float, float]:
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
        f"eval_max_new_tokens = {cfg.eval_max_new_tokens}; exact match is too low for it, raise it"
    )
