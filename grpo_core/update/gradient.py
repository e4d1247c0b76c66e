"""Samples -> the gradient of one update, summed over its groups; and scores without a gradient.

How one group runs through the model is in `group_passes.py`, what fits into memory in
`memory_plan.py`.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import Interrupted
from grpo_core.model.adapters import KeyedDropout
from grpo_core.model.gradient_checkpointing import checkpointed
from grpo_core.model.lean_operations import lean_operations
from grpo_core.model.policy import Policy
from grpo_core.model.trunk_head import Params
from grpo_core.run.signals import ShouldStop
from grpo_core.update.group_passes import GroupPasses, Scores
from grpo_core.update.loss import Totals, add_sums, entropy_threshold
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import NOTHING, Count, Groups, Sample, count, is_in_loss


@dataclass(frozen=True, slots=True)
class Gradient:
    """Of the loss, by flat parameter name in fp32, evaluated; and what to log."""

    grads: Params
    stats: dict[str, float]


def gradient(
    policy: Policy,
    groups: Groups,
    cfg: MLXGRPOConfig,
    plan: MemoryPlan,
    *,
    skipped: Count = NOTHING,
    dropout_key: tuple[int, ...] = (),
    should_stop: ShouldStop | None = None,
) -> Gradient:
    """The gradient of the update's loss over all groups, and its statistics.

    Every mean is over the whole update, so the cut into micro-batches changes nothing, and neither
    does leaving out groups without advantage if `skipped` counts them. Samples of a group share
    their prompt. `dropout_key` names the update (with lora_dropout > 0).
    `should_stop` is asked between micro-batches; then Interrupted is raised and nothing has
    changed. The policy's weights are as before in any case.
    """
    passes = GroupPasses(policy, cfg, plan, _totals(policy, groups, cfg, plan, skipped))
    weights = policy.trainable()
    total: Params = {}
    sums: dict[str, float] = {}
    _ = policy.split.head_names  # found by a gradient of its own, so before any other
    policy.model.train()
    try:
        with lean_operations(policy.model, gradient=True), _checkpointing(policy, plan):
            for number, group in enumerate(groups):
                _set_dropout(policy, dropout_key, number)
                for share in passes.shares(weights, group):
                    _check(should_stop)
                    total = _added(total, share.grads)
                    parts, pulls = share.sums, share.pulls
                    del share  # so that each gradient is freed once it is in the total
                    mx.eval(total, parts, pulls)
                    add_sums(sums, parts)
    finally:
        policy.trained.put(weights)
        policy.model.eval()
    return Gradient(total or _zeros(weights), sums)


def _added(total: Params, grads: Params) -> Params:
    """The sum in fp32, not evaluated; the first gradient is the first total."""
    in_fp32 = {name: grad.astype(mx.float32) for name, grad in grads.items()}
    return {name: total[name] + grad for name, grad in in_fp32.items()} if total else in_fp32


def _zeros(weights: Params) -> Params:
    return {name: mx.zeros(weight.shape, mx.float32) for name, weight in weights.items()}


def score(
    policy: Policy, groups: Groups, cfg: MLXGRPOConfig, plan: MemoryPlan
) -> list[list[Scores]]:
    """Log-probs and entropies of every completion under the policy as it is; no gradient.

    For the reference, call it within `policy.reference()`.
    """
    policy.model.eval()
    passes = GroupPasses(policy, cfg, plan, Totals(1, 1, 1, 1))
    # The operations of the gradient, so that a reference equal to the policy has equal log-probs to
    # the last bit: a KL term of rounding errors would move the weights, as Adam makes it large.
    with lean_operations(policy.model, gradient=True):
        return [_in_order(group, passes.scores(group)) for group in groups]


def _in_order(group: Sequence[Sample], scored: Iterator[tuple[int, Scores]]) -> list[Scores]:
    found = dict(scored)
    return [found[i] for i in range(len(group))]


def _check(should_stop: ShouldStop | None) -> None:
    if should_stop is not None and should_stop():
        raise Interrupted("stopped within an update, which is given up; the same command goes on")


def _checkpointing(policy: Policy, plan: MemoryPlan) -> AbstractContextManager[None]:
    return checkpointed(policy.model) if plan.grad_checkpoint else nullcontext()


def _set_dropout(policy: Policy, key: tuple[int, ...], group: int) -> None:
    for _, module in policy.model.named_modules():
        if isinstance(module, KeyedDropout):
            module.set_key(*key, group)


def _totals(
    policy: Policy, groups: Groups, cfg: MLXGRPOConfig, plan: MemoryPlan, skipped: Count
) -> Totals:
    """What the update's means divide by."""
    samples = [sample for group in groups for sample in group]
    own = count(samples, cfg)
    everything = (own.sequences + skipped.sequences, own.tokens + skipped.tokens, own.tokens)
    if cfg.top_entropy_quantile >= 1:
        return Totals(*everything, learning=own.tokens)
    # Which tokens learn must be known before the first gradient: one more forward pass.
    scored = [s for group in score(policy, groups, cfg, plan) for s in group]
    pairs = zip(samples, scored, strict=True)
    pool = [found.entropies for sample, found in pairs if is_in_loss(sample, cfg)]
    entropies = np.concatenate(pool) if pool else np.zeros(0, np.float32)
    threshold = entropy_threshold(entropies, cfg.top_entropy_quantile)
    return Totals(*everything, int((entropies >= threshold).sum()), threshold)
