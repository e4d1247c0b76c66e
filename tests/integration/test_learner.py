"""A step moves the weights only where there is something to learn, and as far as memory allows."""

import json
import math
import re
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.config import MLXGRPOConfig
from grpo_core.data.splits import load_data
from grpo_core.errors import ModelError
from grpo_core.model.policy import load_policy
from grpo_core.rewards.builtin import Rewards
from grpo_core.run.atomic import finite
from grpo_core.update import learner
from grpo_core.update.learner import Learner
from grpo_core.update.memory_plan import plan_memory
from grpo_core.update.rollout_batch import draw_batch
from grpo_core.update.rollout_json import from_json, to_json
from grpo_core.update.schedule import Position

LR = 1e-3


def never():
    return False


def config(**fields):
    base = {
        "model_name": "builtin/tiny",
        "dataset": "builtin/arithmetic",
        "system_prompt": "",
        "assistant_prefix": "",
        "quantize_for_rollouts": False,
        "dtype": "float32",
        "lora_rank": 4,
        "max_train_samples": 2,
        "num_generations": 4,
        "max_new_tokens": 16,
        "temperature": 1.0,
        "seed": 1,  # by which the completions of a group differ
        "eval_samples": 0,
    }
    return MLXGRPOConfig(**{**base, **fields})


def by_length(text, answer):
    return float(len(text))


def by_letters(text, answer):
    return float(sum(map(ord, text)))


def constant(text, answer):
    return 1.5


class Scene:
    """A policy, its learner and one rollouts."""

    def __init__(self, reward, **fields):
        self.said = []
        self.cfg = cfg = config(**fields)
        self.policy = load_policy(cfg)
        data = load_data(cfg, self.policy.tokenizer)
        plan = plan_memory(self.policy, cfg)
        self.learner = Learner(self.policy, cfg, plan, lambda: None, self.said.append)
        judge = Rewards({"r": reward}, MLXGRPOConfig())
        self.rollouts = self.learner.score(
            draw_batch(self.policy, judge, data.train, cfg, 1, never)
        )

    def step(self, update=1, iteration=0):
        """One step of the learner."""
        return self.learner.step(
            self.rollouts, update, Position(0, 0, 99, 0, 99, iteration), LR, never
        )

    def snapshot(self):
        """Weights and optimizer state, to the last bit."""
        arrays = {**self.policy.trainable(), **self.learner.arrays()}
        return {name: np.array(a) for name, a in arrays.items()}, self.learner.optimizer.steps


def same(a, b):
    return a[1] == b[1] and all(np.array_equal(a[0][name], b[0][name]) for name in a[0])


@pytest.mark.parametrize("train_type", ["lora", "dora", "full"])
@pytest.mark.parametrize("zero_variance", ["skip", "keep", "resample"])
def test_constant_reward_leaves_everything_bit_identical(train_type, zero_variance):
    """Weights, moments and step count; with weight decay too, as no step is taken."""
    scene = Scene(constant, train_type=train_type, zero_variance=zero_variance, weight_decay=0.1)
    before = scene.snapshot()
    step = scene.step()
    assert not step.moved
    assert step.finite
    assert (step.figures["loss"], step.figures["grad_norm"]) == (0.0, 0.0)
    assert scene.rollouts.figures["frac_reward_zero_std"] == 1.0
    assert same(scene.snapshot(), before)


def test_masked_completions_alone_leave_everything_bit_identical():
    """Rewards differ, but every completion was cut and is masked: weight decay does not act."""
    scene = Scene(by_letters, mask_truncated=True, max_new_tokens=6, weight_decay=0.1)
    assert scene.rollouts.figures["truncated_frac"] == 1.0
    assert scene.rollouts.groups
    before = scene.snapshot()
    assert not scene.step().moved
    assert same(scene.snapshot(), before)


def test_different_rewards_move_the_weights():
    """The same scene with a signal: every lora_b leaves 0."""
    scene = Scene(by_length)
    step = scene.step()
    assert step.moved
    assert step.figures["grad_norm"] > 0
    moved = [a for name, a in scene.policy.trainable().items() if name.endswith("lora_b")]
    assert all(mx.any(a != 0).item() for a in moved)


def test_kept_groups_without_variance_learn_from_kl():
    """zero_variance=keep with a KL term: the reference pulls even where rewards are equal."""
    scene = Scene(by_length, zero_variance="keep", kl_coeff=0.5)
    scene.step()
    scene = replace_experience(scene, constant)
    assert scene.step(2).moved


@pytest.mark.parametrize(
    ("train_type", "bits"), [("lora", 0), ("lora", 4), ("dora", 0), ("dora", 4), ("full", 0)]
)
def test_the_policy_starts_as_its_own_reference(train_type, bits):
    """KL is 0 to the last bit before anything has been learnt, and not after that."""
    scene = Scene(by_length, train_type=train_type, kl_coeff=0.5, quantize_for_rollouts=bits > 0)
    assert scene.step().figures["kl"] == 0.0
    assert replace_experience(scene, by_length).step(2).figures["kl"] > 0


@pytest.mark.parametrize("train_type", ["lora", "dora"])
def test_the_reference_of_adapters_that_were_trained_is_these_adapters(train_type, tmp_path):
    """Without them in it, the KL term would train away what they had learnt."""
    earlier = Scene(by_length, train_type=train_type)
    for update in range(1, 4):
        replace_experience(earlier, by_length).step(update)
    earlier.policy.save(tmp_path / "adapters", earlier.cfg)
    start = {"train_type": train_type, "adapter_path": str(tmp_path / "adapters")}
    scene = Scene(constant, **start, kl_coeff=0.5, zero_variance="keep")
    before = scene.snapshot()
    step = scene.step()
    assert (step.figures["kl"], step.moved) == (0.0, False)
    assert same(scene.snapshot(), before)
    scene = Scene(by_length, **start, kl_coeff=0.5)
    scene.step()
    assert replace_experience(scene, by_length).step(2).figures["kl"] > 0


def replace_experience(scene, reward):
    judge = Rewards({"r": reward}, MLXGRPOConfig())
    data = load_data(scene.cfg, scene.policy.tokenizer)
    drawn = draw_batch(scene.policy, judge, data.train, scene.cfg, 2, never)
    scene.rollouts = scene.learner.score(drawn)
    return scene


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_step_that_is_not_finite_changes_nothing(bad):
    """A weight gone bad: the loss is no number, and nothing is touched."""
    scene = Scene(by_length)
    weights = scene.policy.trainable()
    name = next(name for name in weights if name.endswith("lora_a"))
    scene.policy.set_trainable({**weights, name: weights[name] * bad})
    before = scene.snapshot()
    step = scene.step()
    assert not step.finite
    assert not step.moved
    after = scene.snapshot()
    assert after[1] == before[1]
    assert all(np.array_equal(after[0][k], before[0][k], equal_nan=True) for k in before[0])


def failing(times, text, monkeypatch):
    """Let the next calls of `gradient` fail as MLX does."""
    real, left = learner.gradient, [times]
    sizes = []

    def faulty(policy, groups, cfg, plan, **named):
        sizes.append(plan.micro_batch_size)
        if left[0]:
            left[0] -= 1
            raise RuntimeError(text)
        return real(policy, groups, cfg, plan, **named)

    monkeypatch.setattr(learner, "gradient", faulty)
    return sizes


def test_micro_batch_is_halved_where_memory_runs_out(monkeypatch):
    """4, 2, 1: then it fits; a line for each, and the step is that of micro-batch 1 to the bit."""
    scene = Scene(by_length)
    sizes = failing(2, "[malloc] Unable to allocate 123 bytes.", monkeypatch)
    assert scene.step().moved
    assert sizes == [4, 2, 1]
    assert scene.learner.plan.micro_batch_size == 1
    assert [line.split("; ")[1] for line in scene.said] == [
        "going on with micro_batch_size = 2",
        "going on with micro_batch_size = 1",
    ]
    monkeypatch.undo()
    small = Scene(by_length, micro_batch_size=1)
    small.step()
    assert same(scene.snapshot(), small.snapshot())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"micro_batch_size": 4}, "[malloc] Unable to allocate 123 bytes."),
        ({}, "[METAL] Command buffer execution failed: Insufficient Memory (00000008)"),
        ({}, "[METAL] Command buffer execution failed: Caused GPU Timeout Error"),
        ({}, "[matmul] Last dimension of first input must match"),
    ],
    ids=["fixed size", "poisoned queue", "watchdog", "bug"],
)
def test_other_failures_are_not_tried_again(fields, text, monkeypatch):
    """A size that was asked for is kept; a failed queue and a bug are no matter of size."""
    scene = Scene(by_length, **fields)
    sizes = failing(9, text, monkeypatch)
    with pytest.raises(RuntimeError, match=re.escape(text)):
        scene.step()
    assert len(sizes) == 1


def test_rollouts_survive_a_checkpoint_to_the_last_bit():
    """Through JSON: the second step from it is the same step."""

    scene = Scene(by_length, num_iterations=2, kl_coeff=0.1, rollout_is="token_truncate", top_p=0.9)
    other = Scene(by_length, num_iterations=2, kl_coeff=0.1, rollout_is="token_truncate", top_p=0.9)
    other.rollouts = from_json(json.loads(json.dumps(to_json(other.rollouts))))
    for one in (scene, other):
        one.step(1, 0)
        one.step(2, 1)
    assert same(scene.snapshot(), other.snapshot())


def test_a_batch_without_any_reward_survives_a_checkpoint():
    """Its mean is NaN, which JSON has not; a run that goes on from there must know it again."""
    scene = Scene(by_length, num_iterations=2)
    scene.rollouts.figures["reward_mean"] = math.nan
    found = from_json(json.loads(json.dumps(finite(to_json(scene.rollouts)))))
    assert math.isnan(found.figures["reward_mean"])


def test_later_iterations_compare_with_the_policy_that_sampled():
    """On the first step the ratio is 1 and nothing is clipped; on the second it has moved."""
    scene = Scene(by_length, num_iterations=2, clip_eps=1e-6)
    first, second = scene.step(1, 0), scene.step(2, 1)
    assert first.figures["clip_frac"] == 0
    # Only what has moved the way its advantage wants is clipped: about half.
    assert second.figures["clip_frac"] > 0.2


def restored(scene, arrays):
    """What restoring says, and that nothing has changed by it."""
    before = scene.snapshot()
    with pytest.raises((KeyError, ModelError)) as raised:
        scene.learner.restore(arrays, 1)
    assert same(scene.snapshot(), before)
    return str(raised.value)


def test_a_checkpoint_of_another_model_is_refused_whole():
    """Which array, and what is wrong with it, of weights and moments alike."""
    scene = Scene(by_length)
    arrays = scene.learner.arrays()
    name = next(name for name in arrays if name.startswith("v/"))
    said = restored(scene, {k: a for k, a in arrays.items() if k != name})
    assert said == repr(name)
    said = restored(scene, {**arrays, name: arrays[name].T})
    assert f"{name} is {arrays[name].T.shape}, not {arrays[name].shape}" in said


def test_how_far_the_sampler_is_from_itself_is_not_logged():
    """With its log-probs as the policy's, only the first update of a batch measures a distance."""
    scene = Scene(by_length, num_iterations=2, old_logprobs="sampled")
    name = "sampling_logp_difference"
    assert 0 < scene.step(1, 0).figures[name] < 1e-4
    assert scene.step(2, 1).figures[name] is None


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9, "temperature": 1.5}])
def test_log_probs_of_the_sampler_are_those_of_the_policy_that_sampled(filters):
    """Before any filter: what `recomputed` finds by a pass of its own, and the step is the same."""
    fields = {"num_iterations": 2, "rollout_is": "token_truncate", **filters}
    fresh, kept = (
        Scene(by_length, old_logprobs=which, **fields) for which in ("recomputed", "sampled")
    )
    assert fresh.rollouts.groups
    pairs = zip(fresh.rollouts.groups, kept.rollouts.groups, strict=True)
    for own, other in ((a, b) for pair in pairs for a, b in zip(*pair, strict=True)):
        np.testing.assert_allclose(other.old_logprobs, own.old_logprobs, atol=2e-5)
    norms = []
    for scene in (fresh, kept):
        scene.step(1, 0)
        norms.append(scene.step(2, 1).figures["grad_norm"])
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_log_probs_of_the_sampler_cost_no_pass(monkeypatch):
    """The model runs over the completions once more only where they are computed again."""
    passes = []
    real = learner.score
    monkeypatch.setattr(learner, "score", lambda *args: passes.append(1) or real(*args))
    Scene(by_length, num_iterations=2, old_logprobs="sampled")
    assert not passes
    Scene(by_length, num_iterations=2)
    assert passes


def test_updates_are_cut_as_the_plan_says():
    """The plan's size is what `gradient` gets."""
    scene = Scene(by_length)
    scene.learner.plan = replace(scene.learner.plan, micro_batch_size=3)
    assert scene.step().moved
