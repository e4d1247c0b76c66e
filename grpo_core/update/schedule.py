"""How many updates a run has, which prompts each of them takes, and its learning rate.

Pure arithmetic on the config and the number of rows; no mlx. Warm-up and decay count real updates,
so a run on few rows still warms up and decays over its whole length.
"""

import math
from dataclasses import dataclass

from grpo_core.config import MLXGRPOConfig


@dataclass(frozen=True, slots=True)
class Position:
    """Where an update stands: which batch of rollouts, which part of it, and which use of that."""

    epoch: int
    start: int
    """First of the prompts that rollouts were drawn for, counted in the epoch's order."""
    stop: int
    first: int
    """First of the prompts that this update learns from: its minibatch."""
    last: int
    """One behind the last of them."""
    iteration: int
    """0 learns from the rollouts for the first time; 1 and on again (`num_iterations`)."""

    @property
    def draws(self) -> bool:
        """Whether the rollouts are drawn for this update: the policy that learns is theirs."""
        return self.iteration == 0 and self.first == self.start


@dataclass(frozen=True, slots=True)
class Schedule:
    """The run's length in updates, and what each update (counted from 1) works on.

    A batch of rollouts is learnt from in `minibatches`, one update each, all of them `iterations`
    times; the last batch of an epoch may have fewer.
    """

    rows: int
    prompts_per_update: int
    batch_size: int
    epochs: int
    iterations: int
    minibatches: int = 1

    @property
    def updates_per_epoch(self) -> int:
        """A last short minibatch counts."""
        return math.ceil(self.rows / self.prompts_per_update) * self.iterations

    @property
    def updates(self) -> int:
        """All updates of the run."""
        return self.epochs * self.updates_per_epoch

    def position(self, update: int) -> Position:
        """What update `update` (from 1) works on."""
        epoch, index = divmod(update - 1, self.updates_per_epoch)
        batch, within = divmod(index, self.minibatches * self.iterations)
        start = batch * self.minibatches * self.prompts_per_update
        stop = min(start + self.minibatches * self.prompts_per_update, self.rows)
        parts = math.ceil((stop - start) / self.prompts_per_update)
        iteration, part = divmod(within, parts)
        first = start + part * self.prompts_per_update
        last = min(first + self.prompts_per_update, stop)
        return Position(epoch, start, stop, first, last, iteration)

    def micro_steps(self, update: int) -> int:
        """Its micro-steps: batches of `batch_size` prompts, a last short one included."""
        at = self.position(update)
        return math.ceil((at.last - at.first) / self.batch_size)


def make_schedule(cfg: MLXGRPOConfig, rows: int) -> Schedule:
    """The schedule of a run over `rows` prompts (those that are left after dropping)."""
    return Schedule(
        rows=rows,
        prompts_per_update=cfg.batch_size * cfg.gradient_accumulation_steps,
        batch_size=cfg.batch_size,
        epochs=cfg.num_epochs,
        iterations=cfg.num_iterations,
        minibatches=cfg.updates_per_generation,
    )


def learning_rate(cfg: MLXGRPOConfig, update: int, updates: int) -> float:
    """The rate of update `update` (from 1) of `updates`; never 0 unless the peak is.

    Linear warm-up reaches the peak with its last update; the decay would reach 0 one update after
    the last, so that no update is spent on a rate of 0.
    """
    peak = cfg.learning_rate
    if cfg.lr_scheduler_type == "constant":
        return peak
    warmup = max(1, math.ceil(cfg.warmup_ratio * updates))
    if update < warmup:
        return peak * update / warmup
    if cfg.lr_scheduler_type == "constant_with_warmup":
        return peak
    progress = (update - warmup) / (updates - warmup + 1)
    if cfg.lr_scheduler_type == "linear":
        return peak * (1 - progress)
    return peak * (1 + math.cos(math.pi * progress)) / 2


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a multiple of `every` lies in (before, after]; never where `every` is 0."""
    return every > 0 and after // every > before // every
