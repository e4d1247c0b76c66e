"""Text -> float: the built-in rewards, and all of a run's rewards as one call.

The family of MLX-GRPO and the GSM8K demo it came from, each earnable by a perfect completion.
What counts as the right answer stands in `answers.py`, plug-ins in `plugins.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from grpo_core.config import MLXGRPOConfig

if TYPE_CHECKING:
    from grpo_core.data import Example


class Rewards:
    """A run's rewards and their weights; a context manager, since plug-ins own a process."""

    names: list[str]
    weights: np.ndarray  # [R]

    def __call__(
        self,
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]],
        examples: Sequence[Example],
        should_stop: Callable[[], bool] = lambda: False,
    ) -> np.ndarray:
        """Rewards [R, N] in float64, NaN where one is missing.

        `completions` are decoded texts without the assistant prefix, which is put before them
        here; the completions of one example stand side by side. Raises RewardError with the row
        at fault, and Interrupted soon after `should_stop()`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the processes of plug-ins."""

    def __enter__(self) -> Rewards:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load_rewards(cfg: MLXGRPOConfig) -> Rewards:
    """The rewards that `cfg` names; RewardError where one is unknown or cannot be loaded."""
    raise NotImplementedError


def combine(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of rewards [R, N] by weights [R] -> [N]; NaN only where all are missing."""
    raise NotImplementedError


def is_correct(text: str, answer: str) -> bool:
    """Exact match, for rewards and evaluation; `text` begins with the assistant prefix."""
    raise NotImplementedError
