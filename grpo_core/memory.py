"""How one update is cut so that it fits: micro-batch, vocabulary chunk, checkpointing.

What the configuration leaves open is chosen here; `update` and `rollout` carry it out.
"""

from dataclasses import dataclass

from grpo_core.fields import MLXGRPOConfig
from grpo_core.model import Policy


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the update is cut. Chosen once and kept in the checkpoint: a resume cuts the same."""

    micro_batch_size: int  # completions
    logprob_chunk_tokens: int
    grad_checkpoint: bool
    prefix_sharing: bool


def plan_memory(policy: Policy, cfg: MLXGRPOConfig) -> MemoryPlan:
    """The configuration's own values, and a choice where it says auto."""
    return MemoryPlan(
        micro_batch_size=cfg.micro_batch_size or cfg.num_generations,
        logprob_chunk_tokens=cfg.logprob_chunk_tokens or 512,
        grad_checkpoint=cfg.grad_checkpoint == "on",
        prefix_sharing=cfg.prefix_sharing and policy.can_share_prefix,
    )
