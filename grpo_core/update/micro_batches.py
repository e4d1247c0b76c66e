"""The samples that an update learns from, cut into micro-batches of padded arrays.

Plain data on the host; the device sees it in micro-batches of completions of similar length. The
samples come from `rollout_batch.py`; `gradient.py` learns from them.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.update.loss import Batch


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion to learn from. Log-probs are float32 [T], one for each of its T tokens.

    `old_logprobs`: of the policy that sampled; None where it is not compared with, as by the policy
    that still is that one.
    `ref_logprobs`: of the reference, with kl_coeff > 0. `sampling_logprobs`: of the distribution
    that the tokens were drawn from, after top_p and its like. `group`: the prompt's number within
    the batch of rollouts.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: Sequence[int]
    advantage: float
    old_logprobs: np.ndarray | None = None
    ref_logprobs: np.ndarray | None = None
    sampling_logprobs: np.ndarray | None = None
    truncated: bool = False
    group: int = 0


Groups = Sequence[Sequence[Sample]]
"""The samples of an update, by prompt."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many completions, and how many of their tokens are in the loss."""

    sequences: int = 0
    tokens: int = 0


NOTHING = Count()


def count(samples: Iterable[Sample], cfg: MLXGRPOConfig) -> Count:
    """Counts completions; those that are masked have no tokens in the loss."""
    lengths = [len(s.completion_ids) if is_in_loss(s, cfg) else 0 for s in samples]
    return Count(len(lengths), sum(lengths))


def is_in_loss(sample: Sample, cfg: MLXGRPOConfig) -> bool:
    """Whether a completion's tokens count (`mask_truncated`)."""
    return not (cfg.mask_truncated and sample.truncated)


@dataclass(frozen=True, slots=True)
class Rows:
    """A micro-batch of one group: completions of similar length, right-padded to C tokens."""

    places: list[tuple[int, int]]  # number in the group, length
    ids: mx.array  # [B, C]
    batch: Batch
    truncated: mx.array  # [B, 1]

    @property
    def length(self) -> int:
        """Tokens of each row, padding included."""
        return int(self.ids.shape[1])

    @property
    def inputs(self) -> mx.array:
        """[B, C - 1]: the last token predicts nothing that we need."""
        return self.ids[:, :-1]


def cut(group: Sequence[Sample], size: int, multiple: int) -> list[Rows]:
    """Micro-batches of at most `size` completions, sorted by length to save padding."""
    order = sorted(range(len(group)), key=lambda i: len(group[i].completion_ids))
    count = math.ceil(len(order) / size)
    even = math.ceil(len(order) / count)
    return [_rows(group, order[i : i + even], multiple) for i in range(0, len(order), even)]


def _rows(group: Sequence[Sample], numbers: list[int], multiple: int) -> Rows:
    """Some of a group's completions, padded to a multiple of `multiple` tokens."""
    samples = [group[i] for i in numbers]
    longest = max(len(s.completion_ids) for s in samples)
    width = multiple * math.ceil(longest / multiple)

    def padded(rows: list[Any], dtype: Any) -> mx.array:
        out = np.zeros((len(rows), width), dtype)
        for r, row in enumerate(rows):
            out[r, : len(row)] = row
        return mx.array(out)

    def known(rows: list[np.ndarray | None]) -> mx.array | None:
        there = [row for row in rows if row is not None]
        return padded(there, np.float32) if len(there) == len(rows) else None

    return Rows(
        places=[(i, len(s.completion_ids)) for i, s in zip(numbers, samples, strict=True)],
        ids=padded([s.completion_ids for s in samples], np.int32),
        batch=Batch(
            mask=padded([np.ones(len(s.completion_ids)) for s in samples], np.float32),
            advantage=mx.array([[s.advantage] for s in samples], mx.float32),
            old=known([s.old_logprobs for s in samples]),
            ref=known([s.ref_logprobs for s in samples]),
            sampler=known([s.sampling_logprobs for s in samples]),
        ),
        truncated=mx.array([[float(s.truncated)] for s in samples], mx.float32),
    )
