"""`update.gradient` on a small random Qwen2, against finite differences of the numpy oracle.

The oracle's model (`tests/oracle_model.py`) runs each prompt with its completion as one plain
sequence in float64; ours shares the prompt, pads, cuts and differentiates in float32.
"""

from dataclasses import replace

import numpy as np
import pytest

from grpo_core.update import gradient
from grpo_core.update.loss import advantages
from grpo_core.update.memory_plan import MemoryPlan
from grpo_core.update.micro_batches import Sample
from tests import oracle
from tests.oracle_model import token_logps
from tests.toy import EOS, LIMIT, SHAPE, TEMPERATURE, VOCAB, config, toy_policy, weights_of

PLAN = MemoryPlan(
    micro_batch_size=2, logprob_chunk_tokens=5, grad_checkpoint=False, prefix_sharing=True
)
LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "sapo", "rloo", "luspo", "vespo")
SETTINGS = {
    "first": {},
    "later": {"num_iterations": 2},
    "everything": {
        "num_iterations": 2,
        "clip_eps_high": 0.28,
        "clip_delta": 1.5,
        "kl_coeff": 0.1,
        "mask_truncated": True,
        "entropy_coef": 0.05,
        "top_entropy_quantile": 0.6,
        "rollout_is": "token_truncate",
        "rollout_is_max": 0.9,
    },
}


def make_groups(policy, cfg, seed=1):
    """Two prompts with three completions each, of 1 to 8 tokens; two hit the limit."""
    draw = np.random.default_rng(seed)
    weights = weights_of(policy)
    groups = []
    for g, lengths in enumerate([(3, LIMIT, 1), (5, 2, LIMIT)]):
        prompt = tuple(draw.integers(0, VOCAB, 4 + 3 * g).tolist())
        group = []
        for length, advantage in zip(lengths, (1.1, -0.9, 0.4), strict=True):
            truncated = length == LIMIT
            ids = draw.integers(8, VOCAB, length).tolist()
            ids = ids if truncated else [*ids[:-1], EOS]
            logps, _ = token_logps(weights, SHAPE, list(prompt), ids, TEMPERATURE)

            def near(scale, logps=logps):
                return (logps + draw.normal(0, scale, len(logps))).astype(np.float32)

            old = near(0.3) if cfg.num_iterations > 1 else None
            group.append(
                Sample(
                    prompt_ids=prompt,
                    completion_ids=ids,
                    advantage=advantage,
                    old_logprobs=old,
                    ref_logprobs=near(0.5) if cfg.kl_coeff else None,
                    sampling_logprobs=near(0.3) if cfg.rollout_is != "none" else None,
                    truncated=truncated,
                    group=g,
                )
            )
        groups.append(group)
    return groups


def options_of(cfg):
    return oracle.Options(
        loss_type=cfg.loss_type,
        clip_eps=cfg.clip_eps,
        clip_eps_high=cfg.clip_eps_high,
        clip_delta=cfg.clip_delta,
        kl_coeff=cfg.kl_coeff,
        kl_estimator=cfg.kl_estimator,
        mask_truncated=cfg.mask_truncated,
        entropy_coef=cfg.entropy_coef,
        top_entropy_quantile=cfg.top_entropy_quantile,
        rollout_is=cfg.rollout_is,
        rollout_is_max=cfg.rollout_is_max,
        limit=cfg.max_new_tokens,
    )


def completions_of(groups, weights):
    """What the oracle sees of an update whose policy has these weights."""
    found = []
    for sample in (s for group in groups for s in group):
        logps, entropies = token_logps(
            weights, SHAPE, list(sample.prompt_ids), list(sample.completion_ids), TEMPERATURE
        )
        found.append(
            oracle.Completion(
                logps=logps,
                advantage=sample.advantage,
                old=_wide(sample.old_logprobs),
                ref=_wide(sample.ref_logprobs),
                sampler=_wide(sample.sampling_logprobs),
                entropies=entropies,
                truncated=sample.truncated,
            )
        )
    return found


def _wide(array):
    return None if array is None else np.asarray(array, np.float64)


def slope_along(groups, weights, here, name, direction, options, step=1e-5):
    """Central difference of the oracle's loss as weight `name` moves along `direction`.

    What is constant for the gradient (the ratio's denominator, cispo's weight) stays as it is
    `here`, at `weights`.
    """
    ends = []
    for sign in (1, -1):
        moved = completions_of(groups, {**weights, name: weights[name] + sign * step * direction})
        batch = [
            replace(c, moved=m.logps, entropies=m.entropies)
            for c, m in zip(here, moved, strict=True)
        ]
        ends.append(oracle.loss(batch, options))
    return (ends[0] - ends[1]) / (2 * step)


@pytest.mark.parametrize(
    ("setting", "train_type"),
    [("first", "full"), ("later", "full"), ("everything", "full"), ("everything", "lora")],
)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradient_is_the_finite_difference_of_the_oracle(loss_type, setting, train_type):
    """Along a random direction of every trained weight, for every objective; and the statistics.

    The error is held against the norm of the weight's whole gradient, since a direction may be
    nearly at right angles to it. float32 keeps 6e-8 of each number and sums of some thousand
    products lose about ten times that; the finite difference itself is good to 1e-9.
    """
    cfg = config(loss_type=loss_type, train_type=train_type, **SETTINGS[setting])
    policy = toy_policy(train_type)
    groups = make_groups(policy, cfg)
    weights, options = weights_of(policy), options_of(cfg)
    found = gradient.gradient(policy, groups, cfg, PLAN)
    expected = oracle.statistics(completions_of(groups, weights), options)
    assert found.stats == pytest.approx(expected, rel=1e-5, abs=1e-5)
    assert set(found.grads) == set(policy.trainable())
    check_slopes(found.grads, groups, weights, options)


def check_slopes(grads, groups, weights, options):
    """Holds the gradient of every weight against the oracle's slope along one direction."""
    draw = np.random.default_rng(2)
    here = completions_of(groups, weights)
    for name, grad in grads.items():
        grad = np.array(grad, np.float64)
        direction = draw.normal(size=grad.shape)
        direction /= np.linalg.norm(direction)
        slope = slope_along(groups, weights, here, name, direction, options)
        error = abs(float((grad * direction).sum()) - slope)
        assert error < 1e-5 * np.linalg.norm(grad) + 1e-8, name


@pytest.mark.parametrize("train_type", ["full", "lora", "dora"])
@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 1},
        {"micro_batch_size": 8},
        {"micro_batch_size": 8, "logprob_chunk_tokens": 1000},
        {"prefix_sharing": False},
        {"grad_checkpoint": True},
        {"grad_checkpoint": True, "micro_batch_size": 8, "prefix_sharing": False},
    ],
    ids=lambda changes: "-".join(f"{k}={v}" for k, v in changes.items()),
)
def test_no_cut_of_the_update_changes_its_gradient(changes, train_type):
    """Micro-batches, head chunks, prompt sharing, recomputation: the same slopes each time."""
    cfg = config(loss_type="grpo", train_type=train_type, **SETTINGS["everything"])
    policy = toy_policy(train_type)
    groups = make_groups(policy, cfg)
    found = gradient.gradient(policy, groups, cfg, replace(PLAN, **changes))
    check_slopes(found.grads, groups, weights_of(policy), options_of(cfg))


@pytest.mark.parametrize("train_type", ["lora", "dora"])
def test_adapters_on_a_four_bit_base_have_the_oracles_gradient(train_type):
    """The oracle runs on the base as it is after quantisation, the only one there is."""
    cfg = config(loss_type="dapo", train_type=train_type, **SETTINGS["everything"])
    policy = toy_policy(train_type, bits=4)
    groups = make_groups(policy, cfg)
    found = gradient.gradient(policy, groups, cfg, PLAN)
    assert all(name.endswith(("lora_a", "lora_b", ".m")) for name in found.grads)
    check_slopes(found.grads, groups, weights_of(policy), options_of(cfg))


# -- properties that need no oracle -----------------------------------------------------------


def one_sample(ids, advantage=1.0, prompt=(9, 3, 30), **more):
    return Sample(prompt_ids=tuple(prompt), completion_ids=list(ids), advantage=advantage, **more)


def grads_of(policy, groups, cfg):
    return {
        name: np.array(grad, np.float64)
        for name, grad in gradient.gradient(policy, groups, cfg, PLAN).grads.items()
    }


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_each_token_of_the_completion_counts_once_and_the_prompt_never(cut):
    """grad(prompt, abcE) = grad(prompt, a) + grad(prompt a, bcE), and so on at every place.

    dr_grpo divides by constants, so the loss is a sum over tokens. If a prompt's token had a
    gradient, or a completion's first or last had none, the two sides would differ.
    """
    cfg, policy = config(loss_type="dr_grpo", train_type="full"), toy_policy()
    prompt, ids = [9, 3, 30], [12, 40, 21, EOS]
    whole = grads_of(policy, [[one_sample(ids, prompt=prompt)]], cfg)
    first = grads_of(policy, [[one_sample(ids[:cut], prompt=prompt)]], cfg)
    rest = grads_of(policy, [[one_sample(ids[cut:], prompt=prompt + ids[:cut])]], cfg)
    for name, grad in whole.items():
        np.testing.assert_allclose(
            first[name] + rest[name], grad, atol=1e-5 * np.abs(grad).max(), err_msg=name
        )


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_end_token_is_learned(loss_type):
    """A completion that is nothing but the end token has a gradient: towards ending, if good."""
    cfg, policy = config(loss_type=loss_type, train_type="full"), toy_policy()
    sample = one_sample([EOS])
    before = log_prob(policy, sample, cfg)
    step_down(policy, [[sample]], cfg)
    assert log_prob(policy, sample, cfg) > before + 1e-4


def log_prob(policy, sample, cfg):
    """Log-prob of the whole completion, in nats."""
    return float(gradient.score(policy, [[sample]], cfg, PLAN)[0][0].logprobs.sum())


def step_down(policy, groups, cfg):
    """One small step of plain gradient descent."""
    grads = gradient.gradient(policy, groups, cfg, PLAN).grads
    norm = float(np.sqrt(sum((np.array(g, np.float64) ** 2).sum() for g in grads.values())))
    weights = policy.trainable()
    policy.set_trainable({name: weights[name] - 0.01 / norm * grads[name] for name in grads})


@pytest.mark.parametrize("train_type", ["full", "lora", "dora"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_good_completion_becomes_likelier_and_a_bad_one_rarer(loss_type, train_type):
    """The sign of everything, end to end: one step by each of the two in one group."""
    cfg, policy = config(loss_type=loss_type, train_type=train_type), toy_policy(train_type)
    good, bad = one_sample([12, 40, EOS], 1.0), one_sample([33, 15, 20, 41, EOS], -1.0)
    before = [log_prob(policy, sample, cfg) for sample in (good, bad)]
    step_down(policy, [[good, bad]], cfg)
    after = [log_prob(policy, sample, cfg) for sample in (good, bad)]
    assert after[0] > before[0] + 1e-4
    assert after[1] < before[1] - 1e-4


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_no_advantage_no_gradient(loss_type):
    """A group whose rewards are all equal has advantages 0, and a gradient of exactly 0."""
    cfg, policy = config(loss_type=loss_type, train_type="lora"), toy_policy("lora")
    equal = advantages(np.full((1, 3), 0.7), cfg.scale_rewards, loss_type)[0]
    samples = [one_sample([12 + i, 40, EOS], float(a)) for i, a in enumerate(equal)]
    assert not any(grad.any() for grad in grads_of(policy, [samples], cfg).values())


@pytest.mark.parametrize("train_type", ["full", "lora"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_ratio_is_one_on_the_first_iteration(loss_type, train_type):
    """The policy against itself: 1, whether its log-probs are taken over or scored beforehand."""
    cfg, policy = config(loss_type=loss_type, train_type=train_type), toy_policy(train_type)
    groups = make_groups(policy, cfg)
    scores = gradient.score(policy, groups, cfg, PLAN)
    scored = [
        [replace(s, old_logprobs=sc.logprobs) for s, sc in zip(group, found, strict=True)]
        for group, found in zip(groups, scores, strict=True)
    ]
    plain, again = (gradient.gradient(policy, g, cfg, PLAN) for g in (groups, scored))
    for found in (plain, again):
        assert found.stats["ratio"] == pytest.approx(1, abs=1e-6)
        assert found.stats["clip_frac"] == 0
    for name, grad in plain.grads.items():
        np.testing.assert_allclose(again.grads[name], grad, atol=1e-5 * np.abs(grad).max())
