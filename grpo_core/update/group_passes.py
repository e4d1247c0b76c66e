"""One group through the model, its prompt run once: its share of the gradient, and its log-probs.

The prompt of a group runs once and its keys and values serve all completions. If the group fits
into one micro-batch, that is one graph. If not, each micro-batch gives its gradient by the prompt's
keys and values as well; those add up, and the prompt's backward pass runs once at the end (the
chain rule, cut in two). The same gradient either way, and however the group is cut. The sum over
groups is taken in `gradient.py`, the formula is in `loss.py`, log-probs are in `logprobs.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model.policy import Policy
from grpo_core.model.shared_prefix import Left, run_prefix, run_rows
from grpo_core.model.trunk_head import Params
from grpo_core.update.logprobs import Head, token_stats
from grpo_core.update.loss import Objective, Totals, objective
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Rows, Sample, cut

# Compiled kernels are kept for every shape and never dropped (mlx #4464): lengths in steps of this
# many tokens keep the shapes few.
COMPILED_MULTIPLE = 32


def compiles(cfg: MLXGRPOConfig) -> bool:
    """Whether inner parts are compiled; not on the CPU, which calls a C++ compiler for each."""
    return cfg.use_compile and bool(mx.default_device() != mx.cpu)


@dataclass(frozen=True, slots=True)
class Scores:
    """Of one completion under the policy: float32 [T] each, in nats."""

    logprobs: np.ndarray
    entropies: np.ndarray


@dataclass(frozen=True, slots=True)
class Share:
    """What one backward pass adds to the update; not evaluated."""

    grads: Params
    sums: dict[str, mx.array]
    pulls: list[mx.array]  # the gradient by the prompt's keys, values and last state, so far


class GroupPasses:
    """One update over fixed settings: cuts groups, runs the model, gives gradients."""

    def __init__(
        self, policy: Policy, cfg: MLXGRPOConfig, plan: MemoryPlan, totals: Totals
    ) -> None:
        self.policy = policy
        self.split = policy.split
        self.cfg = cfg
        self.plan = plan
        self.totals = totals
        self.how = Objective.of(cfg)
        self.head = Head(
            temperature=cfg.temperature,
            chunk=plan.logprob_chunk_tokens,
            entropy_gradient=cfg.entropy_coef > 0,
            compiled=compiles(cfg),
        )
        self.multiple = COMPILED_MULTIPLE if self.head.compiled else 1

    def shares(self, weights: Params, group: Sequence[Sample]) -> Iterator[Share]:
        """Shares of the group's gradient, to be added up; each evaluated before the next."""
        rows = cut(group, self.plan.micro_batch_size, self.multiple)
        prompt = mx.array(group[0].prompt_ids)[None]
        if not self.plan.prefix_sharing:
            for part in rows:
                yield self._whole(weights, prompt, part, self._plain)
        elif len(rows) == 1:
            yield self._whole(weights, prompt, rows[0], self._shared)
        else:
            yield from self._in_two(weights, prompt, rows)

    def _whole(
        self,
        weights: Params,
        prompt: mx.array,
        rows: Rows,
        hidden: Callable[[mx.array, Rows], mx.array],
    ) -> Share:
        def loss(weights: Params) -> tuple[mx.array, dict[str, mx.array]]:
            self._put(weights)
            return self._loss(hidden(prompt, rows), rows)

        (_, sums), grads = mx.value_and_grad(loss)(weights)
        return Share(grads, sums, [])

    def _in_two(self, weights: Params, prompt: mx.array, parts: list[Rows]) -> Iterator[Share]:
        """The micro-batches behind one prompt, then the prompt's own backward pass."""
        self._put(weights)
        prefix, last = run_prefix(self.split, prompt)
        mx.eval(prefix, last)
        pulls: list[mx.array] = []
        for rows in parts:
            # No name for the share here: its gradients are to be freed as they are added up.
            yield self._behind(weights, prefix, last, rows, pulls)
        del prefix, last

        def before(weights: Params) -> mx.array:
            self._put(weights)
            pairs = zip(_leaves(run_prefix(self.split, prompt)), pulls, strict=True)
            return mx.stack([(output * pull).sum() for output, pull in pairs]).sum()

        yield Share(mx.grad(before)(weights), {}, [])

    def _behind(
        self,
        weights: Params,
        prefix: list[Left],
        last: mx.array,
        rows: Rows,
        pulls: list[mx.array],
    ) -> Share:
        """One micro-batch's gradient; that by what the prompt has left is added to `pulls`."""

        def loss(weights: Params, prefix: list[Left], last: mx.array) -> Any:
            self._put(weights)
            hidden = run_rows(self.split, prefix, last, rows.inputs, rows.length)
            return self._loss(hidden, rows)

        run = mx.value_and_grad(loss, argnums=(0, 1, 2))
        (_, sums), (grads, *new) = run(weights, prefix, last)
        pairs = zip(pulls, _leaves(new), strict=True)
        pulls[:] = [a + b for a, b in pairs] if pulls else _leaves(new)
        return Share(grads, sums, list(pulls))

    def _put(self, weights: Params) -> None:
        self.policy.trained.put(weights)

    def _shared(self, prompt: mx.array, rows: Rows) -> mx.array:
        prefix, last = run_prefix(self.split, prompt)
        return run_rows(self.split, prefix, last, rows.inputs, rows.length)

    def _plain(self, prompt: mx.array, rows: Rows) -> mx.array:
        """Prompt and completion as one row; the states that predict the completion [B, C, D]."""
        before = mx.broadcast_to(prompt, (rows.inputs.shape[0], prompt.shape[1]))
        hidden = self.split.trunk(mx.concatenate([before, rows.inputs], axis=1))
        return hidden[:, prompt.shape[1] - 1 :]

    def _stats(self, hidden: mx.array, rows: Rows) -> tuple[mx.array, mx.array]:
        """Log-probs and entropies [B, C]."""
        flat = hidden.reshape(-1, hidden.shape[-1])
        logps, entropies = token_stats(self.split, flat, rows.ids.reshape(-1), self.head)
        return logps.reshape(rows.ids.shape), entropies.reshape(rows.ids.shape)

    def _loss(self, hidden: mx.array, rows: Rows) -> tuple[mx.array, dict[str, mx.array]]:
        logps, entropies = self._stats(hidden, rows)
        batch = rows.batch
        if self.cfg.mask_truncated:
            batch = replace(batch, mask=batch.mask * (1 - rows.truncated))
        return objective(logps, entropies, batch, self.how, self.totals)

    def scores(self, group: Sequence[Sample]) -> Iterator[tuple[int, Scores]]:
        """Each completion's number in the group, and its scores."""
        prompt = mx.array(group[0].prompt_ids)[None]
        prefix: list[Left] = []
        last = mx.zeros((0,))
        if self.plan.prefix_sharing:
            prefix, last = run_prefix(self.split, prompt)
            mx.eval(prefix, last)
        for rows in cut(group, self.plan.micro_batch_size, self.multiple):
            if self.plan.prefix_sharing:
                hidden = run_rows(self.split, prefix, last, rows.inputs, rows.length)
            else:
                hidden = self._plain(prompt, rows)
            both = self._stats(hidden, rows)
            mx.eval(both)
            logps, entropies = (np.array(a) for a in both)
            for row, (number, length) in enumerate(rows.places):
                yield number, Scores(logps[row, :length], entropies[row, :length])


def _leaves(tree: Any) -> list[mx.array]:
    leaves: Params = dict(tree_flatten(tree))
    return list(leaves.values())
