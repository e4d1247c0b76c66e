"""How many updates a run has, which prompts each of them takes, and its learning rate.

Pure arithmetic on the config and the number of rows; no mlx. Warm-up and decay count real updates,
so a run on few rows still warms up and decays over its whole length.
"""

import math
from dataclasses import dataclass

from grpo_core.config import MLXGRPOConfig


@dataclass(frozen=True, slots=True)
class Position:
    """Where an update stands: which batch of rollouts, and which use of it."""

    epoch: int
    start: int
    """First of the batch's prompts, counted in the epoch's order."""
    stop: int
    iteration: int
    """0 draws the rollouts; 1 and on learn from them again (`num_iterations`)."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The run's length in updates, and what each update (counted from 1) works on."""

    rows: int
    prompts_per_update: int
    batch_size: int
    epochs: int
    iterations: int

    @property
    def batches_per_epoch(self) -> int:
        """Batches of rollouts; a last short one counts."""
        return math.ceil(self.rows / self.prompts_per_update)

    @property
    def updates(self) -> int:
        """All updates of the run."""
        return self.epochs * self.batches_per_epoch * self.iterations

    def position(self, update: int) -> Position:
        """What update `update` (from 1) works on."""
        batch, iteration = divmod(update - 1, self.iterations)
        epoch, index = divmod(batch, self.batches_per_epoch)
        start = index * self.prompts_per_update
        return Position(epoch, start, min(start + self.prompts_per_update, self.rows), iteration)

    def micro_steps(self, update: int) -> int:
        """Its micro-steps: batches of `batch_size` prompts, a last short one included."""
        at = self.position(update)
        return math.ceil((at.stop - at.start) / self.batch_size)


def make_schedule(cfg: MLXGRPOConfig, rows: int) -> Schedule:
    """The schedule of a run over `rows` prompts (those that are left after dropping)."""
    return Schedule(
        rows=rows,
        prompts_per_update=cfg.batch_size * cfg.gradient_accumulation_steps,
        batch_size=cfg.batch_size,
        epochs=cfg.num_epochs,
        iterations=cfg.num_iterations,
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
