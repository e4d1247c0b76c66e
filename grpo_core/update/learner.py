"""A rollout batch -> one step of the weights, or none where there is nothing to learn.

Scores the reference and the policy that sampled, takes the gradient, clips it and steps. A step
without a signal, or with one that is not finite, leaves weights and optimizer bit-identical. Where
memory runs out before the device has begun, the micro-batch is halved and the step taken again.
"""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import mlx.core as mx
import numpy as np

from grpo_core.config import MLXGRPOConfig
from grpo_core.errors import Diverged, ModelError
from grpo_core.model.finite import all_finite
from grpo_core.model.policy import Policy
from grpo_core.run.exceptions import can_shrink
from grpo_core.run.signals import ShouldStop
from grpo_core.update.bundles import Bundles
from grpo_core.update.gradient import Gradient, gradient, score
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Groups, Sample
from grpo_core.update.optimizer import MASTERS, AdamW, Arrays, clip, global_norm
from grpo_core.update.rollout_batch import RolloutBatch
from grpo_core.update.schedule import Position

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """What came of one update: `figures` for the log, and whether the weights moved."""

    figures: dict[str, float | None]
    moved: bool
    finite: bool = True


class Learner:
    """The policy's optimizer and how an update is cut; the plan may shrink while it runs."""

    def __init__(
        self,
        policy: Policy,
        cfg: MLXGRPOConfig,
        plan: MemoryPlan,
        check: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self.policy = policy
        self.cfg = cfg
        self.plan = plan
        trained = policy.trainable()
        self._bundles = Bundles(trained)
        self.optimizer = AdamW(cfg, self._bundles.join(trained))
        self._check = check
        self._say = say

    def score(self, rollouts: RolloutBatch) -> RolloutBatch:
        """The samples with the log-probs that later steps compare with.

        Of the reference with kl_coeff > 0; of the policy as it is where further steps follow, since
        only the first is taken by the policy that sampled; `old_logprobs` = "sampled" has them.
        """
        groups: Groups = rollouts.groups
        follows = self.cfg.num_iterations * self.cfg.updates_per_generation > 1
        if follows and self.cfg.old_logprobs == "recomputed":
            old = self._logprobs(groups)
            groups = [
                [replace(s, old_logprobs=own) for s, own in zip(group, given, strict=True)]
                for group, given in zip(groups, old, strict=True)
            ]
        if self.cfg.kl_coeff > 0:
            with self.policy.reference():
                ref = self._logprobs(groups)
            groups = [
                [replace(s, ref_logprobs=own) for s, own in zip(group, given, strict=True)]
                for group, given in zip(groups, ref, strict=True)
            ]
        return replace(rollouts, groups=[list(group) for group in groups])

    def _logprobs(self, groups: Groups) -> list[list[np.ndarray]]:
        found = []
        for group in groups:
            self._check()
            found.append(self._shrinking(partial(self._logprobs_of, group)))
        return found

    def _logprobs_of(self, group: Sequence[Sample], plan: MemoryPlan) -> list[np.ndarray]:
        [scored] = score(self.policy, [group], self.cfg, plan)
        return [scores.logprobs for scores in scored]

    def step(
        self, rollouts: RolloutBatch, update: int, at: Position, lr: float, stop: ShouldStop
    ) -> Step:
        """One update at rate `lr`; raises Interrupted before anything has changed.

        Raises Diverged where it leaves weights that are not finite.
        """
        groups, skipped = rollouts.minibatch(at.first - at.start, at.last - at.start)
        if at.draws:
            groups = _on_policy(groups)
        if not self._has_signal(groups):
            return Step(_NO_FIGURES, moved=False)
        found = self._shrinking(
            lambda plan: gradient(
                self.policy,
                groups,
                self.cfg,
                plan,
                skipped=skipped,
                dropout_key=(self.cfg.seed, update),
                should_stop=stop,
            )
        )
        grads = self._bundles.join(found.grads)
        found.grads.clear()  # each is in a vector, or the vector
        norm = global_norm(grads)
        figures = _figures(found, norm)
        if self.cfg.old_logprobs == "sampled" and not at.draws:
            figures["sampling_logp_difference"] = None  # from itself
        if not (math.isfinite(norm) and math.isfinite(found.stats["loss"])):
            return Step(figures, moved=False, finite=False)
        if norm == 0:
            return Step(figures, moved=False)
        clipped = clip(grads, norm, self.cfg.max_grad_norm)
        vectors = self._put(self.optimizer.step(clipped, lr))
        if not all_finite(vectors):
            raise _not_finite(self.policy.trainable(), update, lr)
        return Step(figures, moved=True)

    def _put(self, masters: Arrays) -> Arrays:
        """The weights into the policy, as its numbers; returns their vectors."""
        vectors = self._bundles.cast(masters)
        weights = self._bundles.part(vectors)
        mx.eval(weights)
        self.policy.set_trainable(weights)
        return vectors

    def arrays(self) -> Arrays:
        """Moments and masters of every trained array by its name, for a checkpoint.

        Those that are joined are parts of their vectors, and copied when they are written.
        """
        parts = self.optimizer.parts().items()
        return {
            f"{part}/{name}": array
            for part, vectors in parts
            for name, array in self._bundles.part(vectors).items()
        }

    def restore(self, arrays: Arrays, steps: int) -> None:
        """Take what `arrays` gave, and put the weights into the policy.

        Raises KeyError where one lacks, ModelError where one does not fit.
        """
        held = {part: self._of_part(part, arrays) for part in self.optimizer.parts()}
        vectors = {part: self._bundles.join(of_part) for part, of_part in held.items()}
        self.optimizer.restore(vectors, steps)
        self._put(vectors[MASTERS])

    def _of_part(self, part: str, arrays: Arrays) -> Arrays:
        found = {}
        for name, shape in self._bundles.shapes.items():
            found[name] = array = arrays[f"{part}/{name}"]
            if array.shape != shape:
                raise ModelError(
                    f"the checkpoint does not fit the model: {part}/{name} is {array.shape}, not "
                    f"{shape}"
                )
        return found

    def _has_signal(self, groups: Groups) -> bool:
        """Whether the gradient can be anything but 0."""
        if self.cfg.kl_coeff > 0 or self.cfg.entropy_coef > 0:
            return bool(groups)
        return any(sample.advantage != 0 for group in groups for sample in group)

    def _shrinking(self, work: Callable[[MemoryPlan], T]) -> T:
        """`work`, with ever smaller micro-batches while memory runs out at once."""
        while True:
            try:
                return work(self.plan)
            except (RuntimeError, MemoryError) as error:
                size = self.plan.micro_batch_size
                if self.cfg.micro_batch_size or size == 1 or not can_shrink(error):
                    raise
                self.plan = replace(self.plan, micro_batch_size=size // 2)
                self._say(f"[memory] {error}; going on with micro_batch_size = {size // 2}")
            # Outside of the handler: the traceback keeps the failed step's arrays alive.
            gc.collect()
            mx.clear_cache()


def _not_finite(weights: Arrays, update: int, lr: float) -> Diverged:
    """Weights that are not finite stay so; with the first of them."""
    broken = next(name for name, array in weights.items() if not all_finite({name: array}))
    return Diverged(
        f"update {update} at rate {lr!r} left {broken} ({weights[broken].dtype}) without "
        "finite numbers; lower learning_rate"
    )


_NO_FIGURES: dict[str, float | None] = {
    "loss": 0.0,
    "grad_norm": 0.0,
    "policy_reward": 0.0,
    "kl": 0.0,
    "entropy": None,
    "clip_frac": 0.0,
    "clip_frac_low": 0.0,
    "clip_frac_high": 0.0,
    "sampling_logp_difference": None,
}


def _on_policy(groups: Groups) -> list[list[Sample]]:
    """For the first step: the policy is the one that sampled, and its ratio is exactly 1."""
    return [[replace(sample, old_logprobs=None) for sample in group] for group in groups]


def _figures(found: Gradient, norm: float) -> dict[str, float | None]:
    """The log's names; without a reference there is no KL term, and it is logged as 0."""
    known = {name: found.stats.get(name, default) for name, default in _NO_FIGURES.items()}
    return {**known, "grad_norm": norm}
