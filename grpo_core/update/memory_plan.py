"""How a run is cut so that it fits: rows that decode together, micro-batch, chunk, checkpointing.

What the configuration leaves open is chosen here from the estimate of the peak; `update` carries
it out. The cut changes neither completions nor gradient, so a smaller one is always safe.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import mlx.core as mx

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model.device import GB, planned_bytes
from grpo_core.model.gradient_checkpointing import keeps_gradient
from grpo_core.model.policy import Policy
from grpo_core.rollout.generate import MAX_ROWS
from grpo_core.run.protocol import ENV_HALVINGS
from grpo_core.update.memory_estimate import (
    PER_LOGIT,
    Estimate,
    Part,
    Shape,
    estimate,
    model_shape,
)

# Tokens of completions in one micro-batch. A GPU wants many at once; a CPU gains little (measured
# at 1.3 M parameters with OpenBLAS: 512 tokens take 0.87 to 0.98 of the time of 256, at 1.6 times
# the peak).
GPU_TOKENS, CPU_TOKENS = 4096, 256

# Below so many tokens a smaller micro-batch costs more than recomputing activations does.
FEW_TOKENS = 512

# Share of the memory that one chunk of the vocabulary head may take, and its bounds in bytes.
CHUNK_SHARE, CHUNK_MIN, CHUNK_MAX = 1 / 32, 64 * 10**6, 512 * 10**6

# Of a CPU's memory, as other programs need some too.
RAM_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """How the update is cut. Chosen once and kept in the checkpoint: a resume cuts the same."""

    micro_batch_size: int  # completions
    logprob_chunk_tokens: int
    grad_checkpoint: bool
    prefix_sharing: bool
    rollout_rows: int = MAX_ROWS
    """Completions that decode together in a rollout, at most; so in an evaluation."""
    eval_rows: int = MAX_ROWS

    @property
    def settings(self) -> dict[str, int | str | bool]:
        """How the update is cut, as fields of a configuration."""
        return {
            "micro_batch_size": self.micro_batch_size,
            "logprob_chunk_tokens": self.logprob_chunk_tokens,
            "grad_checkpoint": "on" if self.grad_checkpoint else "off",
            "prefix_sharing": self.prefix_sharing,
        }


def plan_memory(
    policy: Policy, cfg: MLXGRPOConfig, say: Callable[[str], None] = lambda _: None
) -> MemoryPlan:
    """The configuration's own values, and what fits this machine where it says auto.

    Raises ModelError where layers are to be recomputed and that would change the gradient.
    """
    try:
        shape = model_shape(policy.config, cfg)
    except ModelError:
        shape = None  # an architecture that the estimate does not know trains all the same
    plan = choose_plan(shape, cfg, budget_bytes(cfg), policy.can_share_prefix)
    if not plan.grad_checkpoint or keeps_gradient(policy.split, plan.prefix_sharing):
        return plan
    if cfg.grad_checkpoint == "on":
        raise ModelError(
            f"{policy.base}: its layers hand on more than their arguments show, so that "
            "grad_checkpoint=on would give a wrong gradient; set grad_checkpoint=off"
        )
    say(
        "[memory] grad_checkpoint stays off, though memory is short: it would change the gradient "
        "of this model"
    )
    without = replace(cfg, grad_checkpoint="off")
    return choose_plan(shape, without, budget_bytes(cfg), policy.can_share_prefix)


def halved_after_deaths(
    plan: MemoryPlan, cfg: MLXGRPOConfig, say: Callable[[str], None]
) -> MemoryPlan:
    """A smaller micro-batch where earlier attempts were killed for memory before they could halve.

    How often, the worker has counted, which saw how they ended.
    """
    times = int(os.environ.get(ENV_HALVINGS) or 0)
    if not times or cfg.micro_batch_size or plan.micro_batch_size == 1:
        return plan
    size = max(1, plan.micro_batch_size >> times)
    say(f"[memory] killed for memory before; going on with micro_batch_size = {size}")
    return replace(plan, micro_batch_size=size)


def choose_plan(
    shape: Shape | None, cfg: MLXGRPOConfig, budget: int, can_share_prefix: bool = True
) -> MemoryPlan:
    """The plan for a model of that shape and so many bytes of memory.

    First smaller micro-batches, which cost little, then recomputation, then ever smaller ones.
    """
    limit = cfg.completion_limit
    plan = MemoryPlan(
        micro_batch_size=min(
            cfg.num_generations, cfg.micro_batch_size or max(1, _wanted_tokens() // limit)
        ),
        logprob_chunk_tokens=cfg.logprob_chunk_tokens or _chunk_tokens(shape, budget),
        grad_checkpoint=cfg.grad_checkpoint == "on",
        prefix_sharing=cfg.prefix_sharing and can_share_prefix,
    )
    if shape is None:
        return plan
    plan = replace(
        plan,
        rollout_rows=_rows(shape, cfg, budget, lambda found: found.rollout),
        eval_rows=_rows(shape, cfg, budget, lambda found: found.evaluation),
    )
    return _shrink(plan, cfg, limit, lambda p: _peak(shape, cfg, p) <= budget)


def _rows(
    shape: Shape, cfg: MLXGRPOConfig, budget: int, phase: Callable[[Estimate], list[Part]]
) -> int:
    """How many completions may decode together; one at the least, whatever that takes."""

    def fits(rows: int) -> bool:
        found = estimate(shape, cfg, cfg.max_prompt_length, rollout_rows=rows, eval_rows=rows)
        return sum(part.bytes for part in found.standing + phase(found)) <= budget

    return next((rows for rows in range(MAX_ROWS, 1, -1) if fits(rows)), 1)


def _shrink(
    plan: MemoryPlan, cfg: MLXGRPOConfig, limit: int, fits: Callable[[MemoryPlan], bool]
) -> MemoryPlan:
    """The first plan that fits, or the smallest one that the configuration allows."""
    while not fits(plan):
        can_cut = plan.micro_batch_size > 1 and cfg.micro_batch_size == 0
        can_recompute = not plan.grad_checkpoint and cfg.grad_checkpoint == "auto"
        if can_cut and (plan.micro_batch_size * limit > FEW_TOKENS or not can_recompute):
            plan = replace(plan, micro_batch_size=plan.micro_batch_size // 2)
        elif can_recompute:
            plan = replace(plan, grad_checkpoint=True)
        else:
            return plan
    return plan


def _peak(shape: Shape, cfg: MLXGRPOConfig, plan: MemoryPlan) -> int:
    """Of the update on the longest prompts that the configuration lets in; bytes."""
    settled = replace(cfg, **plan.settings)  # type: ignore[arg-type]
    found = estimate(shape, settled, cfg.max_prompt_length)
    return sum(part.bytes for part in found.standing + found.update)


def _wanted_tokens() -> int:
    return CPU_TOKENS if mx.default_device() == mx.cpu else GPU_TOKENS


def _chunk_tokens(shape: Shape | None, budget: int) -> int:
    """Positions that pass the vocabulary head at once."""
    vocab = shape.vocab if shape else 2**17
    room = min(CHUNK_MAX, max(CHUNK_MIN, CHUNK_SHARE * budget))
    return max(16, int(room / (PER_LOGIT * 4 * vocab)))


def budget_bytes(cfg: MLXGRPOConfig) -> int:
    """The memory that a run may take: as configured, as the GPU advises, or a share of the RAM."""
    if cfg.memory_limit_gb > 0:
        return round(cfg.memory_limit_gb * GB)
    if room := planned_bytes():
        return room
    return round(RAM_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
