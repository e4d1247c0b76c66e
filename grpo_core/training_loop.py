"""The loop over updates: draw, learn, log, evaluate, save.

A run is a walk over updates. After each update and each evaluation its state is whole and can be
saved; what follows is a function of that state alone, so a run that is killed and started again
ends with the same weights and the same log.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, replace

import mlx.core as mx

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.prompts import Prompt
from grpo_core.data.splits import Data
from grpo_core.errors import (
    Diverged,
    Interrupted,
    ModelError,
    RewardError,
)
from grpo_core.evaluate import Evaluation, evaluate, truncation_warning
from grpo_core.model.device import peak_bytes, reset_peak
from grpo_core.model.policy import Policy
from grpo_core.model.random_keys import shuffled
from grpo_core.rewards.builtin import Rewards
from grpo_core.rollout.generate import must_still_give_numbers
from grpo_core.run import checkpoint
from grpo_core.run.atomic import new_folder
from grpo_core.run.checkpoint import Checkpoint, RunState
from grpo_core.run.console import Console
from grpo_core.run.folder import RunFolder
from grpo_core.run.logs import JsonLines, Line, is_measure, log_faults, stands_at
from grpo_core.run.protocol import FINAL_FOLDER, INTERVALS, LOG_FILE, SAMPLES_FILE
from grpo_core.run.signals import StopFlag
from grpo_core.run.stopwatch import Stopwatch
from grpo_core.update.learner import Learner, Step
from grpo_core.update.memory_plan import MemoryPlan, halved_after_deaths, plan_memory
from grpo_core.update.prompt_choice import choose_prompts, count_flat, is_drawn
from grpo_core.update.rollout_batch import RolloutBatch, draw_batch
from grpo_core.update.rollout_json import from_json, to_json
from grpo_core.update.schedule import Position, crossed, learning_rate, make_schedule

# Counters, not figures: they say where the run is, not how it does.
_COUNTERS = frozenset({"update", "batch_step", "updates_total", "epoch", "num_tokens"})

# In a checkpoint's arrays, beside the optimizer's.
_REFERENCE = "reference/"


class TrainingLoop:
    """The updates of one run. All that a checkpoint must hold is in `state` and `learner`."""

    def __init__(
        self,
        folder: RunFolder,
        state: RunState,
        data: Data,
        rewards: Rewards,
        scorers: Rewards,
        policy: Policy,
        stop: StopFlag,
        watch: Stopwatch,
        console: Console,
    ) -> None:
        self.cfg = folder.cfg
        self.folder, self.path = folder, folder.path
        self.state = state
        self.rewards = rewards
        self.scorers = scorers
        self.policy = policy
        self.stop = stop
        self.watch = watch
        self.console = console
        self.train_prompts = data.train
        self.held_out: dict[str, list[Prompt]] = {"test": data.test, "train": data.train_eval}
        self.schedule = make_schedule(self.cfg, len(data.train))
        plan = _plan(self.cfg, policy, state, console)
        self.learner = Learner(policy, self.cfg, plan, stop.check, console.line)
        self.rollouts: RolloutBatch | None = None
        in_place = folder.must_be_in_place
        self.log = JsonLines(self.path / LOG_FILE, self.cfg.log_jsonl, in_place)
        self.samples = JsonLines(self.path / SAMPLES_FILE, self.cfg.log_completions > 0, in_place)
        self._changed = False
        self._saved_at = time.monotonic()
        self._warned: set[str] = set()
        self._order: tuple[int, list[int]] = (-1, [])
        console.begin(self.schedule.updates, len(data.train), data.dropped)
        console.detail(f"[memory] {plan}")
        if policy.can_share_prefix:
            console.detail(
                "[model] log-probs behind a shared prompt are at most "
                f"{policy.prefix_difference:.1e} nats from plain ones"
            )

    def run(self, found: Checkpoint | None) -> None:
        """From the state as it is to the end.

        Raises Interrupted, and RewardError, with the state saved: rewards are called by draws and
        evaluations, which change nothing before they are done.
        """
        self._restore(found)
        try:
            self._evaluate_if_due()
            while self.state.update < self.schedule.updates:
                self._update()
                self._evaluate_if_due()
                self._save_if_due()
        except (Interrupted, RewardError):
            if self._changed:
                self._save()
            raise
        self._save_final()

    def _restore(self, found: Checkpoint | None) -> None:
        """Weights, moments and rollouts as saved; the log cut back to where the state is."""
        keep = stands_at(self.state.update, self.state.evaluated)
        logged = self.log.cut(keep)
        self.samples.cut(keep)
        if self.cfg.log_jsonl:
            for fault in log_faults(logged, self.state.update, self.cfg.logging_steps):
                self.console.line(f"[resume] {self.log.path}: {fault}; it stays so")
        if found is None:
            return
        try:
            self.learner.restore(found.arrays, self.state.optimizer_steps)
            if self.cfg.sync_ref_model and (held := self.policy.reference_weights) is not None:
                kept = {name: found.arrays[f"{_REFERENCE}{name}"] for name in held}
                self.policy.reference_weights = kept
        except KeyError as error:
            raise ModelError(f"{found.path} does not fit the model: no {error} in it") from None
        if found.rollouts is not None:
            self.rollouts = from_json(found.rollouts)
        # Else the checkpoint's arrays stay alive beside those that training makes of them.
        found.arrays.clear()

    # --- one update

    def _update(self) -> None:
        """Draw, learn, count, log. Until `_count` nothing has changed that a checkpoint holds."""
        self.stop.check()
        reset_peak()
        number = self.state.update + 1
        at = self.schedule.position(number)
        if at.draws or self.rollouts is None:
            self.rollouts = self._draw(number, at)
        lr = learning_rate(self.cfg, number, self.schedule.updates)
        started = time.perf_counter()
        if at.draws:
            self.rollouts = self.learner.score(self.rollouts)
        step = self.learner.step(self.rollouts, number, at, lr, self.stop)
        update_s = time.perf_counter() - started
        self._count(number, at, step)
        self._sync_reference()
        self._log_update(at, step, lr, update_s)
        self._check_health()

    def _draw(self, number: int, at: Position) -> RolloutBatch:
        cfg, order = self.cfg, self._order_of(at.epoch)
        own = [self.train_prompts[row] for row in order[at.start : at.stop]]

        def draws(prompt: Prompt) -> bool:
            flat = self.state.flat_in_a_row
            return is_drawn(prompt.example.index, flat, cfg.flat_prompt_chance, cfg.seed, number)

        others = (prompt for prompt in self._others(number, own) if draws(prompt))
        prompts, passed_over = choose_prompts(own, others, draws)
        rows = self.learner.plan.rollout_rows
        found = draw_batch(self.policy, self.rewards, prompts, cfg, number, self.stop, rows, others)
        if cfg.flat_prompt_chance == 1:
            return found
        # What they would have cost is not known, but for what those in their place did.
        each = found.figures["completion_length"] * cfg.num_generations
        saved = round(passed_over * each) + found.figures.get("saved_tokens", 0)
        figures = {"passed_over_prompts": passed_over, "saved_tokens": saved}
        return replace(found, figures=found.figures | figures)

    def _others(self, number: int, prompts: list[Prompt]) -> Iterator[Prompt]:
        """Every row but those of the update, in an order that is made of seed and update alone."""
        own = {prompt.example.index for prompt in prompts}
        for row in shuffled(len(self.train_prompts), "others", self.cfg.seed, number):
            if self.train_prompts[row].example.index not in own:
                yield self.train_prompts[row]

    def _order_of(self, epoch: int) -> list[int]:
        """The rows as this epoch goes through them: made of seed and epoch alone."""
        if self._order[0] != epoch:
            rows = len(self.train_prompts)
            draw = (
                shuffled(rows, "order", self.cfg.seed, epoch) if self.cfg.shuffle else range(rows)
            )
            self._order = epoch, list(draw)
        return self._order[1]

    def _count(self, number: int, at: Position, step: Step) -> None:
        """The update has happened: from here on it is part of the state."""
        state = self.state
        state.update = number
        state.batch_step += self.schedule.micro_steps(number)
        state.optimizer_steps = self.learner.optimizer.steps
        state.evaluated = []
        state.skipped_updates += not step.finite
        state.bad_in_a_row = 0 if step.finite else state.bad_in_a_row + 1
        state.silent_in_a_row = 0 if step.moved or not step.finite else state.silent_in_a_row + 1
        state.moved_updates += step.moved
        if self.rollouts is not None:
            if at.draws:
                state.tokens += self.rollouts.tokens
                count_flat(state.flat_in_a_row, self.rollouts.flat)
            state.unrewarded_updates += math.isnan(self.rollouts.figures["reward_mean"])
        state.peak_bytes = max(state.peak_bytes, peak_bytes())
        self._changed = True

    def _sync_reference(self) -> None:
        cfg = self.cfg
        is_due = self.state.update % cfg.ref_model_sync_steps == 0
        if cfg.sync_ref_model and cfg.kl_coeff > 0 and is_due:
            self.policy.sync_reference(cfg.ref_model_mixup_alpha)

    def _log_update(self, at: Position, step: Step, lr: float, update_s: float) -> None:
        assert self.rollouts is not None
        line = self._line(self.rollouts, at, step, lr, update_s)
        figures = {k: v for k, v in line.items() if not is_measure(k) and k not in _COUNTERS}
        self.state.last |= figures
        update = self.state.update
        if update % self.cfg.logging_steps and update != self.schedule.updates:
            self.log.touch()
            return
        self.log.write(line)
        for shown in self.rollouts.shown if at.draws else ():
            self.samples.write({"update": update, **shown})
        score = self.cfg.held_out_score
        self.console.update(line, score, self.state.last.get(score))

    def _line(
        self, rollouts: RolloutBatch, at: Position, step: Step, lr: float, update_s: float
    ) -> Line:
        drawn = dict(rollouts.figures)
        if not at.draws:
            # Drawn and paid for by an earlier update.
            drawn |= {"rollout_s": 0.0, "reward_s": 0.0}
        return {
            "update": self.state.update,
            "batch_step": self.state.batch_step,
            "epoch": self.state.update / self.schedule.updates_per_epoch,
            "num_tokens": self.state.tokens,
            "lr": lr,
            **step.figures,
            **drawn,
            "update_s": update_s,
            "peak_bytes": peak_bytes(),
            "skipped_updates": self.state.skipped_updates,
            "updates_total": self.schedule.updates,
        }

    def _check_health(self) -> None:
        """End a run that does not come back; Diverged says why, and what to try."""
        state, cfg = self.state, self.cfg
        if state.bad_in_a_row >= cfg.max_bad_updates:
            raise Diverged(
                f"{state.bad_in_a_row} updates in a row with a loss or gradient that is not "
                f"finite, up to update {state.update}; lower learning_rate "
                f"({cfg.learning_rate!r}), or max_grad_norm ({cfg.max_grad_norm!r}; 0 is no limit)"
            )
        if 0 < cfg.abort_inactive_window <= state.silent_in_a_row:
            raise Diverged(
                f"no learning signal in {state.silent_in_a_row} updates in a row, up to update "
                f"{state.update}: within each group all rewards are equal; try a higher "
                f"temperature ({cfg.temperature!r}), more num_generations "
                f"({cfg.num_generations}), or rewards that distinguish answers"
            )

    # --- evaluation

    def _evaluate_if_due(self) -> None:
        for split, prompts in self.held_out.items():
            if prompts and self._is_due(split) and split not in self.state.evaluated:
                self._evaluate(split, prompts)

    def _is_due(self, split: str) -> bool:
        """At the start, at the end, on cadence; a cadence of 0 switches the split off."""
        cfg, update, step = self.cfg, self.state.update, self.state.batch_step
        every = cfg.eval_steps if split == "test" else cfg.eval_every_updates
        if every == 0:
            return False
        if update == 0:
            return cfg.eval_at_start
        if update == self.schedule.updates and cfg.eval_at_end:
            return True
        if split == "train":
            return update % every == 0
        return crossed(every, step - self.schedule.micro_steps(update), step)

    def _evaluate(self, split: str, prompts: list[Prompt]) -> None:
        reset_peak()
        started = time.perf_counter()
        with self.console.busy(f"evaluating {len(prompts)} rows ({split})"):
            rows = self.learner.plan.eval_rows
            done = evaluate(self.policy, prompts, self.cfg, split, self.scorers, self.stop, rows)
        eval_s = time.perf_counter() - started
        self.state.peak_bytes = max(self.state.peak_bytes, peak_bytes())
        line = {
            "update": self.state.update,
            **done.line(),
            "updates_total": self.schedule.updates,
            "eval_s": eval_s,
        }
        self.log.write(line)
        if split == "test":
            for shown in done.shown:
                self.samples.write({"update": self.state.update, "split": split, **shown})
        self._note_score(done)
        self.state.evaluated.append(split)
        self._changed = True
        self.console.evaluation(line, self.cfg.held_out_score)
        if warning := truncation_warning(done, self.cfg):
            self._warn(warning, split)

    def _note_score(self, done: Evaluation) -> None:
        """What held-out rows score is the run's score; that of training rows stands beside."""
        line = done.line()
        if done.split != "test":
            self.state.last |= {f"{n}_train": line[n] for n in INTERVALS if n in line}
            return
        self.state.last |= {
            k: v for k, v in line.items() if k not in ("split", "eval_truncated_frac")
        }
        metric = self.cfg.held_out_score
        score = done.score(metric)
        if score and score[metric] > self.state.best.get(metric, -math.inf):
            self.state.best = {"update": self.state.update, **score}

    def _warn(self, text: str, about: str = "") -> None:
        """Say it, once for all that it is about."""
        if (about or text) not in self._warned:
            self.console.line(text)
            self._warned.add(about or text)

    # --- files

    def _save_if_due(self) -> None:
        """By updates, by the clock, and when the held-out score is the best so far."""
        cfg, state = self.cfg, self.state
        by_updates = cfg.save_steps > 0 and state.update % cfg.save_steps == 0
        by_clock = 0 < cfg.save_every_s <= time.monotonic() - self._saved_at
        is_best = cfg.save_best and state.best.get("update") == state.update
        if self._changed and (by_updates or by_clock or is_best):
            self._save()

    def _save(self) -> None:
        state, cfg = self.state, self.cfg
        self.folder.must_be_in_place(self.log, self.samples)
        # First the log: it must never be older than a checkpoint.
        self.log.sync()
        self.samples.sync()
        self.watch.lap()
        state.plan = asdict(self.learner.plan)
        following = self.schedule.position(state.update + 1)
        path = checkpoint.save(
            self.path,
            state,
            self.learner.arrays() | self._reference_arrays(),
            None if following.draws or self.rollouts is None else to_json(self.rollouts),
            lambda folder: self.policy.save(folder, cfg),
        )
        best = state.best.get("update") if cfg.save_best else None
        for stays in checkpoint.rotate(self.path, cfg.save_total_limit, best):
            self._warn(stays)
        self._changed = False
        self._saved_at = time.monotonic()
        self.console.detail(f"[save] {path}")

    def _reference_arrays(self) -> dict[str, mx.array]:
        """The reference where it moves: else it is what the run begins with, again."""
        held = self.policy.reference_weights if self.cfg.sync_ref_model else None
        return {f"{_REFERENCE}{name}": array for name, array in (held or {}).items()}

    def _save_final(self) -> None:
        must_still_give_numbers(self.policy, self.train_prompts[0].ids)
        self.folder.must_be_in_place(self.log, self.samples)
        self.log.sync()
        self.samples.sync()
        with new_folder(self.path / FINAL_FOLDER) as folder:
            self.policy.save(folder, self.cfg)
            checkpoint.write_manifest(folder)


def _plan(cfg: MLXGRPOConfig, policy: Policy, state: RunState, console: Console) -> MemoryPlan:
    """How updates are cut: as the config says, else as the run chose by itself before."""
    plan = plan_memory(policy, cfg, console.line)
    chosen = {
        "micro_batch_size": cfg.micro_batch_size == 0,
        "logprob_chunk_tokens": cfg.logprob_chunk_tokens == 0,
        "grad_checkpoint": cfg.grad_checkpoint == "auto",
        "rollout_rows": True,
        "eval_rows": True,
    }
    kept = {name: state.plan[name] for name, auto in chosen.items() if auto and name in state.plan}
    return halved_after_deaths(replace(plan, **kept), cfg, console.line)
