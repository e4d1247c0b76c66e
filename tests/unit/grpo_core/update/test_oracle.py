"""The trainer's objectives against the numpy oracle, and the oracle against numbers by hand."""

import itertools
import math

import mlx.core as mx
import numpy as np
import pytest

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.update import loss as ours
from tests import oracle
from tests.oracle import Completion, Options

# -- the oracle itself, by hand ---------------------------------------------------------------


def two_completions(**more):
    """Two tokens with advantage 1, one token with advantage -1, all on the first iteration."""
    return [
        Completion(np.array([-1.0, -2.0]), 1.0, **more),
        Completion(np.array([-0.5]), -1.0, **more),
    ]


# Slopes of the three tokens. At ratio 1 each policy term has slope -A, so only the divisors differ.
BY_HAND = {
    "grpo": (0.0, [-1 / 4, -1 / 4, 1 / 2]),
    "gspo": (0.0, [-1 / 4, -1 / 4, 1 / 2]),
    "rloo": (0.0, [-1 / 2, -1 / 2, 1 / 2]),
    # -(2 (1) + 1 (-1)) / 2; the ratio's slope is 1 / length, which the length takes away again.
    "luspo": (-1 / 2, [-1 / 2, -1 / 2, 1 / 2]),
    "sapo": (-(2.0 - 2.0 / 1.05) / 2, [-1 / 4, -1 / 4, 1 / 2]),
    # phi(1) = 1: REINFORCE, averaged over tokens; see cispo.
    "vespo": (2.5 / 3, [-1 / 3, -1 / 3, 1 / 3]),
    "dapo": (-1 / 3, [-1 / 3, -1 / 3, 1 / 3]),
    "bnpo": (-1 / 3, [-1 / 3, -1 / 3, 1 / 3]),
    "dr_grpo": (-1 / 8, [-1 / 8, -1 / 8, 1 / 8]),
    # -(1 (-1) + 1 (-2) - 1 (-0.5)) / 3
    "cispo": (2.5 / 3, [-1 / 3, -1 / 3, 1 / 3]),
}


@pytest.mark.parametrize("loss_type", BY_HAND)
def test_oracle_gives_the_loss_worked_by_hand(loss_type):
    """Ratio 1, lengths 2 and 1, advantages 1 and -1, limit 4: small enough for a pencil."""
    value, slopes = BY_HAND[loss_type]
    options = Options(loss_type, limit=4)
    assert oracle.loss(two_completions(), options) == pytest.approx(value, abs=1e-12)
    found = np.concatenate(oracle.gradient(two_completions(), options))
    np.testing.assert_allclose(found, slopes, atol=1e-8)


@pytest.mark.parametrize(
    ("r", "advantage", "expected"),
    [
        (1.1, 1.0, 1.1),
        (1.5, 1.0, 1.28),  # the upper width, DAPO's clip-higher
        (0.5, 1.0, 0.5),  # nothing to gain below
        (0.5, -1.0, -0.8),  # the lower width
        (1.5, -1.0, -1.5),  # no bound upwards for a bad completion ...
        (9.0, -1.0, -4.0),  # ... but clip_delta
    ],
)
def test_oracle_clips_as_the_papers_do(r, advantage, expected):
    """min(min(r, delta) A, clip(r, 1 - eps, 1 + eps_high) A), case by case."""
    options = Options(clip_eps=0.2, clip_eps_high=0.28, clip_delta=4.0)
    assert oracle.clipped(r, advantage, options) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    # w = 2 * 2 / 8 = 1/2 with both corrections: (1/2)^2 e^(3/2), and (1/2)^3 e.
    [(1.0, math.exp(1.5) / 4), (-1.0, math.e / 8)],
)
def test_oracle_kernel_by_hand(advantage, expected):
    """Two tokens twice as likely as when they were drawn, one of them eight times too likely."""
    logps = np.log([0.5, 0.5])
    one = Completion(logps, advantage, old=np.log([0.25, 0.25]))
    assert oracle.vespo_kernel(one, np.array([1.0, 1 / 8])) == pytest.approx(expected)


def test_oracle_advantages_by_hand():
    """(1, 0, 0, 1): mean 1/2, standard deviation with ddof 1 = sqrt(1/3)."""
    rewards = np.array([[1.0, 0.0, 0.0, 1.0], [2.0, 2.0, 2.0, 2.0], [np.nan, 4.0, 0.0, np.nan]])
    by_group = 0.5 / (math.sqrt(1 / 3) + 1e-4)
    missing = 2.0 / (math.sqrt(8) + 1e-4)
    expected = np.array([[1, -1, -1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]) * by_group
    expected[2] = [0, missing, -missing, 0]
    np.testing.assert_allclose(oracle.advantages(rewards, "group"), expected, atol=1e-12)
    plain = [[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [0, 2, -2, 0]]
    np.testing.assert_allclose(oracle.advantages(rewards, "none"), plain)


def test_oracle_leaves_one_out_by_hand():
    """(1, 2, 6): 1 - 4, 2 - 3.5, 6 - 1.5; a reward that is alone has no baseline."""
    rewards = np.array([[1.0, 2.0, 6.0], [np.nan, 3.0, np.nan]])
    np.testing.assert_allclose(oracle.leave_one_out(rewards), [[-3, -1.5, 4.5], [0, 0, 0]])


def test_oracle_estimators_by_hand():
    """With policy 1/2 and reference 1/4: d = -log 2."""
    one = Completion(np.log([0.5]), 0.0, ref=np.log([0.25]))
    log2 = math.log(2)
    assert oracle.divergence(one, "k1", 0) == pytest.approx(log2)
    assert oracle.divergence(one, "k2", 0) == pytest.approx(log2**2 / 2)
    assert oracle.divergence(one, "k3", 0) == pytest.approx(0.5 + log2 - 1)


# -- the objectives, token by token -----------------------------------------------------------

LEVELS = {
    "grpo": ("token", "sequence"),
    "bnpo": ("token", "sequence"),
    "dr_grpo": ("token", "sequence"),
    "dapo": ("token", "sequence"),
    "cispo": ("token",),
    "gspo": ("sequence",),
    "sapo": ("token",),
    "rloo": ("sequence",),
    "luspo": ("sequence",),
    "vespo": ("sequence",),
}
OBJECTIVES = [(loss_type, level) for loss_type, levels in LEVELS.items() for level in levels]

VARIANTS = {
    "plain": {},
    "clip-higher": {"clip_eps": 0.1, "clip_eps_high": 0.35},
    "two-sided": {"clip_delta": 1.3},
    "k1": {"kl_coeff": 0.7, "kl_estimator": "k1"},
    "k2": {"kl_coeff": 0.7, "kl_estimator": "k2"},
    "k3": {"kl_coeff": 0.7, "kl_estimator": "k3"},
    "mask-truncated": {"mask_truncated": True},
    "entropy-bonus": {"entropy_coef": 0.3},
    "top-entropy": {"top_entropy_quantile": 0.4},
    "token-truncate": {"rollout_is": "token_truncate", "rollout_is_max": 0.8},
    "token-mask": {"rollout_is": "token_mask", "rollout_is_max": 0.8},
    "sequence-truncate": {"rollout_is": "sequence_truncate", "rollout_is_max": 0.5},
    "off-policy": {"off_policy_mask_threshold": 0.05},
    "sequence-mask": {"rollout_is": "sequence_mask", "rollout_is_max": 0.5},
    "all-at-once": {
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

# Vespo takes tokens' weights only; `config` refuses the others.
CASES = [
    (loss_type, level, variant)
    for loss_type, level in OBJECTIVES
    for variant, more in VARIANTS.items()
    if loss_type != "vespo" or not more.get("rollout_is", "").startswith("sequence")
]

LENGTHS = (4, 1, 6, 3, 5)
ADVANTAGES = (1.3, -0.7, -1.1, 0.0, 0.6)
TRUNCATED = (False, False, True, False, True)


def random_batch(seed, is_first):
    """Five completions of 1 to 6 tokens; on a later iteration the policy has moved since."""
    draw = np.random.default_rng(seed)

    def noise(length, scale):
        # float32 values, so that both sides start from the same numbers
        return draw.normal(0, scale, length).astype(np.float32).astype(np.float64)

    def one(length, advantage, truncated):
        logps = -np.abs(noise(length, 1.5))
        old = logps if is_first else logps + noise(length, 0.3)
        return Completion(
            logps=logps,
            advantage=float(np.float32(advantage)),
            old=None if is_first else old,
            ref=logps + noise(length, 0.6),
            # a filter takes tokens away, so what is left is likelier than the policy has it
            sampler=old + np.abs(noise(length, 0.3)),
            entropies=np.abs(noise(length, 1.0)),
            truncated=truncated,
        )

    return [one(*row) for row in zip(LENGTHS, ADVANTAGES, TRUNCATED, strict=True)]


def objective_of(options):
    """Our objective for the oracle's options, by way of a configuration."""
    return ours.Objective.of(
        MLXGRPOConfig(
            loss_type=options.loss_type,
            importance_sampling_level=options.level,
            clip_eps=options.clip_eps,
            clip_eps_high=options.clip_eps_high,
            clip_delta=options.clip_delta,
            kl_coeff=options.kl_coeff,
            kl_estimator=options.kl_estimator,
            mask_truncated=options.mask_truncated,
            entropy_coef=options.entropy_coef,
            top_entropy_quantile=options.top_entropy_quantile,
            rollout_is=options.rollout_is,
            rollout_is_max=options.rollout_is_max,
            off_policy_mask_threshold=options.off_policy_mask_threshold,
            max_new_tokens=options.limit,
            max_completion_length=10 * options.limit,
        )
    )


def totals_of(batch, options):
    """The divisors of an update, counted one by one."""
    in_loss = [c for c in batch if not (options.mask_truncated and c.truncated)]
    entropies = np.concatenate([c.entropies for c in in_loss])
    threshold = -np.inf
    if options.top_entropy_quantile < 1:
        threshold = ours.entropy_threshold(entropies, options.top_entropy_quantile)
    return ours.Totals(
        sequences=len(batch),
        tokens=len(entropies),
        seen=len(entropies),
        learning=int((entropies >= threshold).sum()),
        threshold=threshold,
    )


def padded(arrays, width, filler):
    """Arrays [T_i] -> one [B, width]; padding holds `filler`, which must not matter."""
    return mx.array(
        np.stack([np.pad(a, (0, width - len(a)), constant_values=filler) for a in arrays]),
        dtype=mx.float32,
    )


def our_loss(batch, options, cuts=(), filler=-3.0, extra=0):
    """Loss and both gradients from `loss.objective`, summed over micro-batches cut at `cuts`."""
    how, totals = objective_of(options), totals_of(batch, options)
    bounds = [0, *cuts, len(batch)]
    total, by_logps, by_entropies = 0.0, [], []
    for start, stop in itertools.pairwise(bounds):
        part = batch[start:stop]
        width = max(len(c.logps) for c in part) + extra
        use = [not (options.mask_truncated and c.truncated) for c in part]
        arrays = ours.Batch(
            mask=padded(
                [np.full(len(c.logps), float(u)) for c, u in zip(part, use, strict=True)], width, 0
            ),
            advantage=mx.array([[c.advantage] for c in part]),
            old=None if part[0].old is None else padded([c.old for c in part], width, filler),
            ref=padded([c.ref for c in part], width, filler),
            sampler=padded([c.sampler for c in part], width, filler),
        )

        def share(logps, entropies, arrays=arrays):
            return ours.objective(logps, entropies, arrays, how, totals)[0]

        logps = padded([c.logps for c in part], width, filler)
        entropies = padded([c.entropies for c in part], width, 0)
        value, slopes = mx.value_and_grad(share, argnums=(0, 1))(logps, entropies)
        total += value.item()
        for found, grads in zip((by_logps, by_entropies), slopes, strict=True):
            rows = np.array(grads)
            for c, row in zip(part, rows, strict=True):
                assert not row[len(c.logps) :].any(), "padding has a gradient"
                found.append(row[: len(c.logps)])
    return total, by_logps, by_entropies


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "later"])
@pytest.mark.parametrize(("loss_type", "level", "variant"), CASES)
def test_loss_and_gradient_are_the_oracles(loss_type, level, variant, is_first):
    """Every objective with every option, on the first iteration and after the policy moved."""
    batch = random_batch(sum(map(ord, variant)), is_first)
    options = Options(loss_type, level, **VARIANTS[variant])
    value, by_logps, by_entropies = our_loss(batch, options)
    assert value == pytest.approx(oracle.loss(batch, options), rel=1e-5, abs=1e-6)
    expected = np.concatenate(oracle.gradient(batch, options))
    np.testing.assert_allclose(np.concatenate(by_logps), expected, rtol=1e-5, atol=1e-6)
    expected = np.concatenate(oracle.entropy_gradient(batch, options))
    np.testing.assert_allclose(np.concatenate(by_entropies), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "plain"])
def test_each_variant_changes_the_gradient(variant):
    """The table above tests something: no option is without effect on the data it is tried on."""
    batch = random_batch(sum(map(ord, variant)), is_first=False)
    plain, options = Options("grpo", "token"), Options("grpo", "token", **VARIANTS[variant])
    slopes = [
        np.concatenate([*oracle.gradient(batch, o), *oracle.entropy_gradient(batch, o)])
        for o in (plain, options)
    ]
    assert np.abs(slopes[0] - slopes[1]).max() > 1e-3


@pytest.mark.parametrize(("loss_type", "level"), OBJECTIVES)
@pytest.mark.parametrize(("cuts", "extra"), [((1, 2, 3, 4), 0), ((2,), 3)])
def test_micro_batches_and_padding_do_not_matter(loss_type, level, cuts, extra):
    """One update in micro-batches of other widths, with other padding: the oracle's numbers."""
    batch = random_batch(3, is_first=False)
    options = Options(loss_type, level, **VARIANTS["all-at-once"])
    value, by_logps, _ = our_loss(batch, options, cuts, filler=50.0, extra=extra)
    assert value == pytest.approx(oracle.loss(batch, options), rel=1e-5, abs=1e-6)
    expected = np.concatenate(oracle.gradient(batch, options))
    np.testing.assert_allclose(np.concatenate(by_logps), expected, rtol=1e-5, atol=1e-6)


# -- advantages and rewards -------------------------------------------------------------------

REWARDS = {
    "mixed": [[1.0, 0.0, 0.5, 3.0], [2.0, 2.5, -1.0, 0.0]],
    "constant": [[0.7, 0.7, 0.7, 0.7], [1.0, 0.0, 0.0, 0.0]],
    "missing": [[1.0, np.nan, 0.5, 3.0], [np.nan, np.nan, -1.0, 0.0]],
    "alone": [[np.nan, np.nan, 2.0, np.nan], [1.0, 0.0, 1.0, 0.0]],
    "none there": [[np.nan] * 4, [np.nan] * 4],
}


@pytest.mark.parametrize("case", REWARDS)
@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_advantages_are_the_oracles(case, scale, loss_type):
    """An explicit scale means the same for every loss_type that has a group's mean as baseline."""
    rewards = np.array(REWARDS[case])
    expected = oracle.advantages(rewards, scale)
    np.testing.assert_allclose(ours.advantages(rewards, scale, loss_type), expected, atol=1e-12)
    if case == "constant":
        assert not ours.advantages(rewards, scale, loss_type)[0].any()


@pytest.mark.parametrize("case", REWARDS)
def test_rloo_leaves_one_out(case):
    """The mean of the others as baseline; no deviation unless asked for."""
    rewards = np.array(REWARDS[case])
    for scale in ("auto", "none", "group", "batch"):
        expected = oracle.leave_one_out(rewards, "none" if scale == "auto" else scale)
        np.testing.assert_allclose(ours.advantages(rewards, scale, "rloo"), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("loss_type", "scale"), [("dr_grpo", "none"), ("grpo", "group"), ("dapo", "group")]
)
def test_auto_scale_is_what_the_paper_does(loss_type, scale):
    """Dr. GRPO takes the deviation out; GRPO and DAPO divide by the group's."""
    rewards = np.array(REWARDS["mixed"])
    expected = oracle.advantages(rewards, scale)
    np.testing.assert_allclose(ours.advantages(rewards, "auto", loss_type), expected, atol=1e-12)
