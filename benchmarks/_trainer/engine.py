"""Parts of an update within one process: each technique on and off, and cost over sizes.

    python -m benchmarks._trainer.engine shares FOLDER GROUP TOKENS
    python -m benchmarks._trainer.engine linearity FOLDER
    python -m benchmarks._trainer.engine floor FOLDER GROUP TOKENS [0.5b | given]

What is compared takes turns, so that whatever else the machine does meets all alike; the first
round warms up. Where the trainer has no switch, the other way is put in its place here. On the CPU
seconds are the processor's, which other programs disturb less. A JSON line a result.
"""

import dataclasses
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import numpy as np

from benchmarks._trainer.rate import clock_of_device, fastest_and_own, products
from benchmarks._trainer.work import GIVEN_SETTING, GPU_SETTING, Setting, model_config
from grpo_core.blas.library import find as find_blas
from grpo_core.blas.session import install as install_blas
from grpo_core.blas.session import use_threads
from grpo_core.config import MLXGRPOConfig
from grpo_core.model.policy import load_policy
from grpo_core.model.random_keys import sample_key
from grpo_core.rollout.generate import Group, generate_groups
from grpo_core.rollout.sampling import Sampling
from grpo_core.update.gradient import score
from grpo_core.update.learner import Learner
from grpo_core.update.memory_plan import plan_memory
from grpo_core.update.micro_batches import NOTHING, Sample
from grpo_core.update.rollout_batch import RolloutBatch
from grpo_core.update.schedule import Position

ROUNDS, FLOOR_ROUNDS = 3, 7
GREEDY = Sampling(temperature=0, max_tokens=64)
GROUPS = (2, 4, 8, 12, 16, 24)
LENGTHS = (16, 32, 64, 96, 128, 192, 256)

Ids = tuple[int, ...]


class Engine:
    """A policy with its learner, at one setting."""

    def __init__(self, folder: Path, setting: Setting) -> None:
        self.cfg = MLXGRPOConfig(**setting.config(folder))
        install_blas(find_blas())
        self.policy = load_policy(self.cfg)
        use_threads(0, self.policy.parameter_count, lambda _: None)
        self.plan = plan_memory(self.policy, self.cfg)
        self.learner = Learner(self.policy, self.cfg, self.plan, lambda: None, print)
        known = json.loads((folder / "prompts.json").read_text())
        self.prompts: list[Ids] = [tuple(ids) for ids in known]
        self.group = setting.group
        self.samples = self.draw_samples()

    def draw(self, together: int | None = None, repeat: bool = False) -> list[Group]:
        """A group of the first prompt: `together` rows at a time, or its prompt run for each."""
        keys = [sample_key(0, 1, 0, s) for s in range(self.group)]
        sampling = Sampling.of(self.cfg)
        if repeat:
            prompts, each = [self.prompts[0]] * self.group, [[key] for key in keys]
            return generate_groups(self.policy, prompts, 1, each, sampling)
        size = together or self.group
        parts = [keys[start : start + size] for start in range(0, self.group, size)]
        return [
            generate_groups(self.policy, self.prompts[:1], len(part), [part], sampling)[0]
            for part in parts
        ]

    def draw_samples(self) -> list[Sample]:
        """A group with advantages that differ."""
        [group] = self.draw()
        weights = np.random.default_rng(0).standard_normal(self.group)
        pairs = zip(group.completions, weights, strict=True)
        return [Sample(group.prompt_ids, ids, float(weight)) for ids, weight in pairs]

    def learn(self, **changes: Any) -> None:
        """One step on the samples, with the plan changed so."""
        self.learner.plan = dataclasses.replace(self.plan, **changes)
        rollouts = RolloutBatch([self.samples], [NOTHING], {}, 0, [])
        at = Position(epoch=0, start=0, stop=1, first=0, last=1, iteration=0)
        step = self.learner.step(rollouts, 1, at, 1e-6, lambda: False)
        assert step.moved, "an update that changes nothing is no update"

    def score(self) -> None:
        """Log-probs of the samples by one more forward pass."""
        score(self.policy, [self.samples], self.cfg, self.plan)

    def answer(self, together: int) -> None:
        """Greedy answers to 16 prompts, so many at a time."""
        for start in range(0, 16, together):
            generate_groups(self.policy, self.prompts[start : start + together], 1, None, GREEDY)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Within it a completion ends at each token with a chance of 1 in 40."""
        before = self.policy.eos_ids
        self.policy.eos_ids = frozenset(range(0, self.policy.vocab_size, 40))
        try:
            yield
        finally:
            self.policy.eos_ids = before


# --- taking turns


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a piece of work took."""

    seconds: float
    mlx_peak_bytes: int


def cost(work: Callable[[], object]) -> Cost:
    """Of one call."""
    mx.clear_cache()
    mx.reset_peak_memory()
    clock = clock_of_device()
    began = clock()
    work()
    return Cost(clock() - began, mx.get_peak_memory())


def in_turns(works: list[Callable[[], object]]) -> list[list[Cost]]:
    """The costs of each, round by round; in a round each has one turn."""
    rounds = [[cost(work) for work in works] for _ in range(ROUNDS + 1)][1:]
    return [list(each) for each in zip(*rounds, strict=True)]


def median(costs: list[Cost]) -> Cost:
    """Of the rounds, seconds and peaks apart."""
    seconds = statistics.median(cost.seconds for cost in costs)
    return Cost(seconds, int(statistics.median(cost.mlx_peak_bytes for cost in costs)))


# --- shares


@dataclasses.dataclass(frozen=True)
class Share:
    """A technique: the work without it and with it."""

    name: str
    phase: str
    without: Callable[[], object]
    with_it: Callable[[], object]


def plain_stats(split: Any, hidden: mx.array, ids: mx.array, how: Any) -> Any:
    """`logprobs.token_stats` as autograd would have it."""
    logits = split.head(hidden).astype(mx.float32) / how.temperature
    logps = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    chosen = mx.take_along_axis(logps, ids[:, None], axis=-1).squeeze(-1)
    return chosen, mx.stop_gradient(-(mx.exp(logps) * logps).sum(axis=-1))


def joining(cache: Any, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
    """`DecodeCache.update_and_fetch`, all joined anew for each token."""
    new = zip(cache.kv, (keys, values), strict=True)
    cache.kv = tuple(mx.concatenate(pair, axis=2) for pair in new)
    cache.steps += 1
    fetched: tuple[mx.array, mx.array] = cache.kv
    return fetched


def as_they_are(_: Any, gradient: bool) -> AbstractContextManager[None]:
    """`lean_operations` that leaves the model's operations as they are."""
    return nullcontext()


def under(context: Callable[[], AbstractContextManager[Any]], work: Callable[[], object]) -> Any:
    """`work` within a context that is made anew for each call."""

    def run() -> None:
        with context():
            work()

    return run


def shares(engine: Engine) -> list[Share]:
    """Every technique that can be left out."""
    group = engine.group
    whole = {"micro_batch_size": group}

    def instead(target: str, value: Any) -> Callable[[], AbstractContextManager[Any]]:
        return lambda: patch(target, value)

    def learn(**changes: Any) -> Callable[[], None]:
        return lambda: engine.learn(**changes)

    slow_draw = instead("grpo_core.rollout.generate.lean_operations", as_they_are)
    slow_update = instead("grpo_core.update.gradient.lean_operations", as_they_are)
    plain_head = instead("grpo_core.update.group_passes.token_stats", plain_stats)
    joined = instead("grpo_core.model.decode_cache.DecodeCache.update_and_fetch", joining)
    every_token = instead("grpo_core.rollout.generate.LOOK_EVERY", 1)
    return [
        Share("completions decoded together", "rollout", lambda: engine.draw(1), engine.draw),
        Share("prompt run once", "rollout", lambda: engine.draw(repeat=True), engine.draw),
        Share("keys and values in place", "rollout", under(joined, engine.draw), engine.draw),
        Share("host looks every 8 tokens", "rollout", under(every_token, engine.draw), engine.draw),
        Share(
            "finished rows dropped (a completion ends at each token with a chance of 1 in 40)",
            "rollout",
            engine.draw,
            under(engine.ending, engine.draw),
        ),
        Share("few operations a layer", "rollout", under(slow_draw, engine.draw), engine.draw),
        Share("prompt run once", "update", learn(prefix_sharing=False), learn()),
        Share("few operations a layer", "update", under(slow_update, engine.learn), learn()),
        Share("head's backward pass by hand", "update", under(plain_head, engine.learn), learn()),
        Share("group cut into micro-batches", "update", learn(**whole), learn()),
        Share("one completion at a time", "update", learn(**whole), learn(micro_batch_size=1)),
        Share(
            "head in chunks of 64 tokens",
            "update",
            learn(**whole),
            learn(**whole, logprob_chunk_tokens=64),
        ),
        Share(
            "activations computed again",
            "update",
            learn(**whole),
            learn(**whole, grad_checkpoint=True),
        ),
        Share(
            "no second pass for the old log-probs",
            "update",
            lambda: (engine.score(), engine.learn()),
            learn(),
        ),
        Share(
            "16 answers together", "evaluation", lambda: engine.answer(1), lambda: engine.answer(16)
        ),
    ]


def run_shares(folder: Path, setting: Setting) -> None:
    """Print each technique's cost without and with it."""
    engine = Engine(folder, setting)
    for share in shares(engine):
        without, with_it = in_turns([share.without, share.with_it])
        pairs = zip(without, with_it, strict=True)
        figures = {
            "technique": share.name,
            "phase": share.phase,
            "without": dataclasses.asdict(median(without)),
            "with": dataclasses.asdict(median(with_it)),
            # Of turns that follow each other, which meet the machine in the same state.
            "times_as_fast": statistics.median(a.seconds / b.seconds for a, b in pairs),
        }
        print(json.dumps(figures), flush=True)


# --- cost over sizes


def run_linearity(folder: Path) -> None:
    """Print seconds of rollout and update at several group sizes, then lengths."""
    for over, settings in (
        ("group", [Setting(group, 64) for group in GROUPS]),
        ("tokens", [Setting(8, tokens) for tokens in LENGTHS]),
    ):
        engines = [Engine(folder, setting) for setting in settings]
        works = [work for engine in engines for work in (engine.draw, engine.learn)]
        costs = [median(each) for each in in_turns(works)]
        for setting, rollout, update in zip(settings, costs[::2], costs[1::2], strict=True):
            figures = {
                "over": over,
                "group": setting.group,
                "tokens": setting.tokens,
                "rollout_s": rollout.seconds,
                "update_s": update.seconds,
            }
            print(json.dumps(figures), flush=True)


# --- the floor


def run_floor(folder: Path, setting: Setting) -> None:
    """Print, round by round, seconds of an update and the rate of products before and after.

    The rate is that of the fastest product in any layout; `own_share` is what share of it the
    products that the update does come to.
    """
    engine = Engine(folder, setting)
    config = model_config(folder)
    tokens = engine.plan.micro_batch_size * setting.tokens
    fastest, own_share = fastest_and_own(products(config, tokens))
    for number in range(FLOOR_ROUNDS + 1):
        before = fastest.sustained()
        rollout = cost(engine.draw).seconds
        between = fastest.sustained()
        update = cost(engine.learn).seconds
        after = fastest.sustained()
        # Each phase by the rates around it, weighted by how long it took.
        weighted = rollout * (before + between) / 2 + update * (between + after) / 2
        seconds = rollout + update
        figures = {"seconds": seconds, "flop_per_s": weighted / seconds, "own_share": own_share}
        if number:
            print(json.dumps(figures), flush=True)


def main() -> None:
    """`shares`, `linearity` or `floor`."""
    what, folder, sizes = sys.argv[1], Path(sys.argv[2]), sys.argv[3:5]
    if what == "linearity":
        run_linearity(folder)
        return
    known = {setting.shape: setting for setting in (GPU_SETTING, GIVEN_SETTING)}
    setting = known[sys.argv[5]] if sys.argv[5:] else Setting(*map(int, sizes))
    (run_shares if what == "shares" else run_floor)(folder, setting)


if __name__ == "__main__":
    main()
