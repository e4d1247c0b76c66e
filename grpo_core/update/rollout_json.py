"""A batch of rollouts as JSON, for a checkpoint between two updates that learn from it.

To the last bit: a float32 is a double as well.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from grpo_core.update.micro_batches import Count, Sample
from grpo_core.update.rollout_batch import RolloutBatch


def to_json(rollouts: RolloutBatch) -> dict[str, Any]:
    """The batch as JSON."""
    return {
        "groups": [[_plain(sample) for sample in group] for group in rollouts.groups],
        "skipped": [asdict(count) for count in rollouts.skipped],
        "figures": rollouts.figures,
        "tokens": rollouts.tokens,
        "shown": rollouts.shown,
    }


def _plain(sample: Sample) -> dict[str, Any]:
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in asdict(sample).items()
    }


def from_json(known: dict[str, Any]) -> RolloutBatch:
    """What `to_json` gave."""
    groups = [[_sample(sample) for sample in group] for group in known["groups"]]
    skipped = [Count(**count) for count in known["skipped"]]
    # JSON has no NaN, which a mean without a reward is.
    figures = {name: math.nan if v is None else v for name, v in known["figures"].items()}
    return RolloutBatch(groups, skipped, figures, known["tokens"], known["shown"])


def _sample(known: dict[str, Any]) -> Sample:
    arrays = {
        name: None if known[name] is None else np.array(known[name], np.float32)
        for name in ("old_logprobs", "ref_logprobs", "sampling_logprobs")
    }
    return Sample(**{**known, **arrays, "prompt_ids": tuple(known["prompt_ids"])})
