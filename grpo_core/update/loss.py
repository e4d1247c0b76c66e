"""Advantages and objectives: arrays in, numbers out. No model, no sampling, no padding rules.

How ours differ from the papers, and why:

- Every mean is over the whole update, however it is cut into micro-batches. So bnpo, which TRL
  normalises by the tokens of each device's batch, is here what dapo is.
- grpo, gspo, sapo and rloo average over a completion's tokens, then over completions; dapo, cispo,
  vespo and bnpo over all tokens; dr_grpo divides by completions times the completion limit. luspo
  is gspo with each completion's term times its length, in the mean over completions.
- The off-policy mask (DeepSeek-V3.2, section 3.1) compares with the policy that sampled by the same
  log-probs as the ratio; its KL term, if any, stays.
- Advantages: sample deviation (ddof = 1) plus 1e-4, as in TRL; the papers leave both open.
- Several rewards are summed and then normalised, or the other way round (GDPO).
- `scale_rewards = "auto"` does what each paper does: no deviation for dr_grpo and rloo.
- cispo caps the ratio at 1 + clip_eps_high (MiniMax-M1) without a floor; TRL's cap is epsilon_high.
- vespo's constants are TRL's, and weights for the sampler are in its ratio, not beside it.
- rloo puts the KL term into the loss like the others, not into the reward.
- k1, k2 and k3 are differentiated as they stand. The gradient of k1 is zero on average: as a loss
  only k2 and k3 hold the policy (Tang and Munos 2025, arXiv 2506.09477).
- Two-sided clipping (`clip_delta`), entropy bonus and top-entropy tokens work with every loss_type
  they make sense for; the papers have them with GRPO or DAPO only.
- A masked completion (`mask_truncated`) has no tokens but still counts as a completion, as in TRL.
- A group whose rewards are all equal counts in every divisor, skipped or kept: skipping saves its
  cost and changes no gradient, as TRL has it. (With KL, entropy bonus or top-entropy tokens it does
  change one: a skipped group has no part in those.) Of a group that is broken off
  (`early_group_size`) only what was drawn counts. DAPO divides by the groups that are left.

Papers: GRPO 2402.03300, Dr. GRPO 2503.20783, DAPO 2503.14476, CISPO 2506.13585, GSPO 2507.18071,
SAPO 2511.20347, LUSPO 2602.05261, VESPO 2602.10693, RLOO 2402.14740, two-sided clip 2505.07291,
top-entropy tokens 2506.01939, GDPO 2601.05242, off-policy mask (DeepSeek-V3.2) 2512.02556.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import SEQUENCE_LEVEL, MLXGRPOConfig

# TRL's; keeps a group of nearly equal rewards from blowing up.
DEVIATION_EPS = 1e-4

# SAPO's temperatures (section 4): negative advantages decay faster.
SAPO_TAU_POSITIVE = 1.0
SAPO_TAU_NEGATIVE = 1.05

# VESPO's exponents and decays, for advantages from 0 on and for negative ones; as in TRL.
VESPO_K = 2.0, 3.0
VESPO_LAMBDA = 3.0, 2.0
# Nats between which a completion's log-ratio stays, and each token's: the kernel is 0 far outside.
VESPO_LOWEST, VESPO_HIGHEST = float(np.log(1e-8)), 20.0

# Nats by which an entropy in fp32 may differ from one pass to another.
ENTROPY_ROUNDING = 1e-5

TOKEN_MEAN = frozenset({"dapo", "cispo", "bnpo", "vespo"})
UNSCALED = frozenset({"dr_grpo", "rloo"})


# --- advantages


def advantages(rewards: np.ndarray, scale: str, loss_type: str) -> np.ndarray:
    """Rewards [P, G] of P groups of G completions -> advantages [P, G], float64.

    A_i = (r_i - mean) / (std + 1e-4), the mean over the group (GRPO, section 4.1.2); `scale` says
    whose deviation divides: group, batch (all P x G), none, or auto (the paper's choice). rloo:
    A_i = r_i - mean of the others. NaN is a missing reward: it is in no mean, and its advantage is
    0, as is that of a reward alone in its group.
    """
    rewards = np.asarray(rewards, dtype=np.float64)
    there = ~np.isnan(rewards)
    filled = np.where(there, rewards, 0.0)
    count = there.sum(axis=1, keepdims=True)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    # Equal rewards: exactly 0, as Adam would blow the rounding of a mean up to a full step.
    highest = np.where(there, rewards, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(there, rewards, np.inf).min(axis=1, keepdims=True)
    centred = np.where(there & (highest > lowest), filled - mean, 0.0)
    if loss_type == "rloo":
        # r_i - (sum - r_i) / (n - 1) = (r_i - mean) n / (n - 1)
        centred = np.where(count > 1, centred * count / np.maximum(count - 1, 1), 0.0)
    if scale == "auto":
        scale = "none" if loss_type in UNSCALED else "group"
    if scale == "group":
        return centred / (_deviation(filled, there, axis=1) + DEVIATION_EPS)
    if scale == "batch":
        return centred / (_deviation(filled, there, axis=None) + DEVIATION_EPS)
    return centred


def decoupled_advantages(rewards: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Rewards [R, P, G] of R reward functions with weights [R] -> advantages [P, G], float64.

    GDPO (arXiv 2601.05242; TRL's normalize_then_sum): each reward is normalised within its group by
    mean and sample deviation, their weighted sum over the batch by its mean and deviation. A reward
    of small spread then counts as much as one of large spread. NaN is a missing reward: it adds
    nothing. Where all rewards of a group are equal, or a completion has none, exactly 0.
    """
    parts = np.stack([advantages(reward, "group", "grpo") for reward in rewards])
    total: np.ndarray = (parts * weights[:, None, None]).sum(axis=0)
    there = ~np.isnan(rewards).all(axis=0)
    mean = total[there].mean() if there.any() else 0.0
    centred = np.where(there & total.any(axis=1, keepdims=True), total - mean, 0.0)
    return centred / (_deviation(total, there, axis=None) + DEVIATION_EPS)


def _deviation(values: np.ndarray, there: np.ndarray, axis: int | None) -> np.ndarray:
    """Sample standard deviation (ddof = 1) of the values that are there; 0 for fewer than two."""
    count = there.sum(axis=axis, keepdims=True)
    mean = np.where(there, values, 0.0).sum(axis=axis, keepdims=True) / np.maximum(count, 1)
    squares = (np.where(there, values - mean, 0.0) ** 2).sum(axis=axis, keepdims=True)
    deviation: np.ndarray = np.sqrt(squares / np.maximum(count - 1, 1))
    return deviation


# --- the objective


@dataclass(frozen=True, slots=True)
class Objective:
    """What is optimised; `of` reads it from a configuration and settles every "auto"."""

    loss_type: str
    sequence_level: bool
    eps_low: float
    eps_high: float
    delta: float
    kl_coeff: float
    kl_estimator: str
    entropy_coef: float
    rollout_is: str
    rollout_is_max: float
    off_policy_mask: float
    limit: int  # tokens; the divisor of dr_grpo

    @classmethod
    def of(cls, cfg: MLXGRPOConfig) -> "Objective":
        """What a configuration asks for."""
        level = cfg.importance_sampling_level
        auto = "sequence" if cfg.loss_type in SEQUENCE_LEVEL else "token"
        return cls(
            loss_type=cfg.loss_type,
            sequence_level=(auto if level == "auto" else level) == "sequence",
            eps_low=cfg.clip_eps,
            eps_high=cfg.clip_eps_high or cfg.clip_eps,
            delta=cfg.clip_delta,
            kl_coeff=cfg.kl_coeff,
            kl_estimator=cfg.kl_estimator,
            entropy_coef=cfg.entropy_coef,
            rollout_is=cfg.rollout_is,
            rollout_is_max=cfg.rollout_is_max,
            off_policy_mask=cfg.off_policy_mask_threshold,
            limit=cfg.completion_limit,
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """What the means of one update divide by: the same for each of its micro-batches."""

    sequences: int  # skipped groups included
    tokens: int  # in the loss, skipped groups included
    seen: int  # in the loss and not skipped: what the log's means are over
    learning: int  # of those, the ones above the entropy threshold
    threshold: float = -np.inf  # nats; tokens below it do not learn (top_entropy_quantile)


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch of B completions, right-padded to T tokens; constants of the gradient.

    `mask` [B, T] is 1 on tokens in the loss, `advantage` [B, 1]. Log-probs [B, T] in nats, None
    where not needed: `old` of the policy that sampled (None: the policy is still that one), `ref`
    of the reference, `sampler` of the distribution the tokens were really drawn from.
    """

    mask: mx.array
    advantage: mx.array
    old: mx.array | None = None
    ref: mx.array | None = None
    sampler: mx.array | None = None


def objective(
    logps: mx.array, entropies: mx.array, batch: Batch, how: Objective, totals: Totals
) -> tuple[mx.array, dict[str, mx.array]]:
    """One micro-batch's share of the update's loss, and sums for the log.

    `logps` and `entropies` are [B, T], of the policy that learns. The shares of all micro-batches
    add up to the loss of the update; so do the sums, each already divided.
    """
    mask = batch.mask
    old = mx.stop_gradient(logps) if batch.old is None else batch.old
    steps = (logps - old) * mask
    ratio = _ratio(steps, mask, how)
    learns = mask * (mx.stop_gradient(entropies) >= totals.threshold)
    weight = _weights(mask, how, totals)
    corrections = None
    if how.rollout_is != "none" and batch.sampler is not None:
        corrections = rollout_weights((mx.stop_gradient(old) - batch.sampler) * mask, how)
    if how.loss_type == "vespo":
        kernel = vespo_weights(steps, corrections, mask, batch.advantage)
        gain = kernel * batch.advantage * logps
    else:
        gain = _surrogate(logps, ratio, batch.advantage, how)
        gain = gain if corrections is None else gain * corrections
    if how.off_policy_mask > 0:
        gain = gain * off_policy_mask(steps, mask, batch.advantage, how.off_policy_mask)
    # where, not a product: padding may hold anything, and 0 * inf is no number.
    reward = mx.where(learns > 0, gain * weight, 0).sum()
    loss = -reward
    per_token = mask / max(1, totals.seen)
    too_low, too_high = _clipped(ratio, batch.advantage, how)
    sums = {
        "policy_reward": reward,
        "entropy": (entropies * per_token).sum(),
        "clip_frac": ((too_low | too_high) * per_token).sum(),
        "clip_frac_low": (too_low * per_token).sum(),
        "clip_frac_high": (too_high * per_token).sum(),
        "ratio": (ratio * per_token).sum(),
    }
    if batch.sampler is not None:
        apart = mx.abs(mx.stop_gradient(old) - batch.sampler)
        sums["sampling_logp_difference"] = (apart * per_token).sum()
    if how.kl_coeff > 0 and batch.ref is not None:
        kl = divergence((batch.ref - logps) * mask, how.kl_estimator)
        loss = loss + how.kl_coeff * (kl * weight).sum()
        sums["kl"] = (kl * per_token).sum()
    if how.entropy_coef > 0:
        loss = loss - how.entropy_coef * (entropies * learns).sum() / max(1, totals.learning)
    return loss, {"loss": loss, **sums}


def _weights(mask: mx.array, how: Objective, totals: Totals) -> mx.array:
    """What each token counts in the loss [B, T]: the averaging of the loss_type."""
    if how.loss_type in TOKEN_MEAN:
        return mask / max(1, totals.tokens)
    if how.loss_type == "dr_grpo":
        return mask / (totals.sequences * how.limit)
    if how.loss_type == "luspo":
        return mask / totals.sequences
    lengths = mx.maximum(mask.sum(axis=1, keepdims=True), 1)
    return mask / (lengths * totals.sequences)


def _ratio(steps: mx.array, mask: mx.array, how: Objective) -> mx.array:
    """pi / pi_old from log-ratios [B, T], 0 on padding; [B, T] or, by sequence, [B, 1] spread.

    Token: GRPO eq. 3. Sequence: GSPO eq. 7, the geometric mean over the tokens (vespo's for the log
    only: its weight is in `vespo_weights`). rloo takes the completion as one action (section 3.1):
    the product over the tokens.
    """
    if how.loss_type == "rloo":
        return mx.broadcast_to(mx.exp(steps.sum(axis=1, keepdims=True)), steps.shape)
    if how.sequence_level:
        lengths = mx.maximum(mask.sum(axis=1, keepdims=True), 1)
        return mx.broadcast_to(mx.exp(steps.sum(axis=1, keepdims=True) / lengths), steps.shape)
    return mx.exp(steps)


def _surrogate(logps: mx.array, ratio: mx.array, advantage: mx.array, how: Objective) -> mx.array:
    """What each token gains, to be maximised; [B, T].

    cispo (MiniMax-M1 eq. 4, 5): sg(min(r, 1 + eps_high)) A log pi.
    sapo: 4 / tau sigmoid(tau (r - 1)) A, tau by the sign of A.
    the others (GRPO eq. 3, DAPO eq. 8): min(r A, clip(r, 1 - eps_low, 1 + eps_high) A), where
    two-sided clipping (INTELLECT-2) first cuts r at `delta`, so that a bad completion that has
    become likely cannot pull without bound.
    """
    if how.loss_type == "cispo":
        return mx.stop_gradient(mx.minimum(ratio, 1 + how.eps_high)) * advantage * logps
    if how.loss_type == "sapo":
        tau = mx.where(advantage > 0, SAPO_TAU_POSITIVE, SAPO_TAU_NEGATIVE)
        return 4 / tau * mx.sigmoid(tau * (ratio - 1)) * advantage
    free = mx.minimum(ratio, how.delta) if how.delta > 0 else ratio
    fenced = mx.clip(ratio, 1 - how.eps_low, 1 + how.eps_high)
    return mx.minimum(free * advantage, fenced * advantage)


def _clipped(ratio: mx.array, advantage: mx.array, how: Objective) -> tuple[mx.array, mx.array]:
    """Where the clip stops a token [B, T]: too low and bad, and too high and good (TRL)."""
    above = ratio > 1 + how.eps_high
    if how.loss_type == "vespo":
        return mx.zeros_like(above), mx.zeros_like(above)
    if how.loss_type == "cispo":
        return mx.zeros_like(above), above
    return (ratio < 1 - how.eps_low) & (advantage < 0), above & (advantage > 0)


def divergence(gap: mx.array, estimator: str) -> mx.array:
    """KL(policy || reference) estimated token by token from d = log ref - log policy.

    Schulman (joschu.net/blog/kl-approx.html): k1 = -d, k2 = d^2 / 2, k3 = exp(d) - d - 1 (GRPO
    eq. 4).
    """
    if estimator == "k1":
        return -gap
    if estimator == "k2":
        return gap * gap / 2
    return mx.exp(gap) - gap - 1


def rollout_weights(steps: mx.array, how: Objective) -> mx.array:
    """Importance weights [B, T] from log(policy / sampler) [B, T], 0 on padding; constants.

    token_*: each token's own; sequence_*: the product over the completion. *_truncate cuts at the
    bound (TIS), *_mask drops what lies above (MIS); names and forms are TRL's.
    """
    if how.rollout_is.startswith("sequence"):
        steps = mx.broadcast_to(steps.sum(axis=1, keepdims=True), steps.shape)
    weights = mx.exp(mx.stop_gradient(steps))
    if how.rollout_is.endswith("truncate"):
        return mx.minimum(weights, how.rollout_is_max)
    return mx.where(weights > how.rollout_is_max, 0, weights)


def vespo_weights(
    steps: mx.array, corrections: mx.array | None, mask: mx.array, advantage: mx.array
) -> mx.array:
    """VESPO's kernel, a constant factor on each completion's log-probs, [B, 1].

    phi(w) = w^k exp(lambda (1 - w)), k and lambda by the sign of A; w is the product of the ratios
    over the completion, from `steps` = log(policy / sampler) [B, T], 0 on padding, and of
    `corrections` [B, T] for what sampling filtered, if any. phi(1) = 1: on policy it is REINFORCE.
    """
    logs = mx.clip(mx.stop_gradient(steps), -VESPO_HIGHEST, VESPO_HIGHEST)
    if corrections is not None:
        logs = logs + mx.clip(mx.log(corrections), VESPO_LOWEST, VESPO_HIGHEST) * mask
    log_w = mx.clip(logs.sum(axis=1, keepdims=True), VESPO_LOWEST, VESPO_HIGHEST)
    k = mx.where(advantage >= 0, *VESPO_K)
    decay = mx.where(advantage >= 0, *VESPO_LAMBDA)
    return mx.exp(k * log_w + decay * (1 - mx.exp(log_w)))


def off_policy_mask(
    steps: mx.array, mask: mx.array, advantage: mx.array, threshold: float
) -> mx.array:
    """1 for completions that may learn, else 0 [B, 1], from log(policy / sampler) [B, T].

    DeepSeek-V3.2, section 3.1: a bad completion is left out once the mean of log(sampler / policy)
    over its tokens is above the threshold.
    """
    lengths = mx.maximum(mask.sum(axis=1, keepdims=True), 1)
    drift = -mx.stop_gradient(steps).sum(axis=1, keepdims=True) / lengths
    return (advantage >= 0) | (drift <= threshold)


def entropy_threshold(entropies: np.ndarray, share: float) -> float:
    """Entropy above which a `share` of the tokens lies (2506.01939): a linear quantile, as TRL's.

    `entropies` [N] are those of every token in the update's loss; a token at the threshold learns,
    and so do those beside it that rounding alone tells apart, such as the first tokens of one
    prompt. What is returned lies in the middle of the next gap below, so that rounding in another
    pass makes no difference.
    """
    if share >= 1 or entropies.size == 0:
        return -np.inf
    edge = np.quantile(entropies, 1 - share)
    lowest = entropies[entropies >= edge].min()
    falling = np.sort(np.append(entropies[entropies < edge], lowest))[::-1]
    gaps = np.flatnonzero(-np.diff(falling) > ENTROPY_ROUNDING)
    return float(falling[gaps[0] : gaps[0] + 2].mean()) if gaps.size else -np.inf


def add_sums(total: dict[str, float], sums: Mapping[str, mx.array]) -> None:
    """Adds one micro-batch's sums, on the host."""
    for name, value in sums.items():
        total[name] = total.get(name, 0.0) + float(value)
