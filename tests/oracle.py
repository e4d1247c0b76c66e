"""The objectives once more, from the papers, in numpy: what the trainer's numbers are held against.

Nothing here is taken from `grpo_core`, and nothing here is made like it: a completion is a list of
its own length (no padding, no masks), sums are Python loops, arithmetic is float64, and gradients
are central differences. Slow and plain on purpose.

Papers, and the short names that the docstrings use:

    DeepSeekMath  Shao et al. 2024, arXiv 2402.03300      GRPO
    Dr. GRPO      Liu et al. 2025, arXiv 2503.20783       no length, no deviation in the divisor
    DAPO          Yu et al. 2025, arXiv 2503.14476        clip-higher, token mean, overlong penalty
    MiniMax-M1    MiniMax 2025, arXiv 2506.13585          CISPO
    GSPO          Zheng et al. 2025, arXiv 2507.18071     one ratio for a sequence
    SAPO          Gao et al. 2025, arXiv 2511.20347       a soft gate for the clip
    VESPO         Shen et al. 2026, arXiv 2602.10693      a soft kernel on the whole ratio
    RLOO          Ahmadian et al. 2024, arXiv 2402.14740  leave-one-out, a completion as one action
    INTELLECT-2   Prime Intellect 2025, arXiv 2505.07291  two-sided clipping
    80/20         Wang et al. 2025, arXiv 2506.01939      only the tokens of high entropy
    Lite PPO      Liu et al. 2025, arXiv 2508.08221       deviation over the batch
    Schulman      joschu.net/blog/kl-approx.html, 2020    k1, k2, k3

What the papers leave open follows TRL (1.16); each such choice is in the docstring of its function.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Completion:
    """One sampled completion of T tokens; the arrays are [T], in nats.

    `old` is None on the first iteration: the policy that sampled is the policy that learns. `moved`
    holds the log-probs that a gradient is taken by; everything under a stop-gradient stays at
    `logps`, so that a finite difference sees what autograd sees.
    """

    logps: Array
    advantage: float
    old: Array | None = None
    ref: Array | None = None
    sampler: Array | None = None
    entropies: Array | None = None
    truncated: bool = False
    moved: Array | None = None

    @property
    def policy(self) -> Array:
        """The log-probs that carry the gradient."""
        return self.logps if self.moved is None else self.moved

    @property
    def behaviour(self) -> Array:
        """Log-probs of the policy that sampled; constants."""
        return self.logps if self.old is None else self.old


@dataclass(frozen=True)
class Options:
    """An objective; the names are those of the configuration, 0 and 1 mean off as there."""

    loss_type: str = "dapo"
    level: str = "auto"
    clip_eps: float = 0.2
    clip_eps_high: float = 0.0
    clip_delta: float = 0.0
    kl_coeff: float = 0.0
    kl_estimator: str = "k3"
    mask_truncated: bool = False
    entropy_coef: float = 0.0
    top_entropy_quantile: float = 1.0
    rollout_is: str = "none"
    rollout_is_max: float = 2.0
    off_policy_mask_threshold: float = 0.0
    limit: int = 16

    @property
    def high(self) -> float:
        """DAPO's upper width (clip-higher, eq. 8); without one, the lower width's twin."""
        return self.clip_eps_high or self.clip_eps

    @property
    def is_sequence_level(self) -> bool:
        """GSPO's ratio, or the token's own."""
        if self.level == "auto":
            return self.loss_type in ("gspo", "luspo", "rloo", "vespo")
        return self.level == "sequence"


# -- advantages and rewards -------------------------------------------------------------------


def advantages(rewards: Array, scale: str) -> Array:
    """GRPO's advantages of `rewards` [P, G]; NaN is a missing reward.

    DeepSeekMath, section 4.1.2: (r - mean) / std within the group. Dr. GRPO drops the std, Lite PPO
    takes it over the batch. As in TRL the std has ddof = 1 and 1e-4 is added to it; means and
    deviations are over the rewards that are there, and a missing one has advantage 0.
    """
    result = np.zeros(rewards.shape)
    for p, group in enumerate(rewards):
        there = [r for r in group if not np.isnan(r)]
        for g, reward in enumerate(group):
            if not np.isnan(reward):
                result[p, g] = (reward - sum(there) / len(there)) / _divisor(rewards, p, scale)
    return result


def leave_one_out(rewards: Array, scale: str = "none") -> Array:
    """RLOO, section 3.2: each reward less the mean of the others in its group.

    A missing reward (NaN) is no one's baseline and has advantage 0, and so has a reward that is
    alone in its group (TRL). The paper has no scale; asked for, it is GRPO's.
    """
    result = np.zeros(rewards.shape)
    for p, group in enumerate(rewards):
        for g, reward in enumerate(group):
            others = [r for i, r in enumerate(group) if i != g and not np.isnan(r)]
            if others and not np.isnan(reward):
                result[p, g] = (reward - sum(others) / len(others)) / _divisor(rewards, p, scale)
    return result


def _divisor(rewards: Array, p: int, scale: str) -> float:
    """What the advantages of group p are divided by."""
    pool = {"group": rewards[p], "batch": rewards.ravel()}
    return 1.0 if scale == "none" else _deviation([r for r in pool[scale] if r == r]) + 1e-4


def _deviation(values: Sequence[float]) -> float:
    """Sample standard deviation (ddof = 1); 0 for a single value, whose advantage is 0 anyway."""
    if len(values) < 2:
        return 0.0
    mean = sum(values) / len(values)
    return float(np.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1)))


def overlong_penalty(length: int, limit: int, buffer: int, cost: float) -> float:
    """DAPO, eq. 13: what a completion of `length` tokens gets on top of its reward (<= 0).

    `buffer` is the paper's L_cache; 0 switches the penalty off.
    """
    if buffer == 0 or length <= limit - buffer:
        return 0.0
    if length > limit:
        return -cost
    return cost * ((limit - buffer) - length) / buffer


# -- the loss ---------------------------------------------------------------------------------


def loss(batch: Sequence[Completion], options: Options) -> float:
    """The loss of one update over all its completions, to be minimised.

    Truncated completions that are masked (DAPO, section 3.4) have no tokens in any sum; as in TRL
    they still count among the sequences of the mean over sequences (grpo, gspo, sapo, rloo) and
    of dr_grpo's constant.
    """
    kept = high_entropy_tokens(batch, options)
    terms = [
        token_terms(completion, options, keep) for completion, keep in zip(batch, kept, strict=True)
    ]
    total = average(batch, terms, options)
    if options.entropy_coef:
        total -= options.entropy_coef * entropy_bonus(batch, kept)
    return total


def learning_tokens(completion: Completion, options: Options) -> int:
    """How many tokens of a completion are in the loss: all, or none if it is masked."""
    if options.mask_truncated and completion.truncated:
        return 0
    return len(completion.logps)


def token_terms(completion: Completion, options: Options, keep: Array) -> list[float]:
    """The loss of each token before any mean; empty for a masked completion.

    In TRL's order: the policy's term, times 0 for a token of low entropy, times the weight for
    the sampler, plus the KL term, which neither of the two touches.
    """
    terms = []
    weights = sampler_weights(completion, options)
    if options.loss_type == "vespo":
        weights = np.full(len(weights), vespo_kernel(completion, weights))
    for t in range(learning_tokens(completion, options)):
        term = -surrogate(completion, options, t) * keep[t] * weights[t]
        term *= not is_too_far(completion, options)
        if options.kl_coeff:
            term += options.kl_coeff * divergence(completion, options.kl_estimator, t)
        terms.append(term)
    return terms


def average(batch: Sequence[Completion], terms: list[list[float]], options: Options) -> float:
    """One number from the terms of every token of every completion.

    grpo, sapo (DeepSeekMath eq. 3), gspo (eq. 5) and rloo: mean over each completion's tokens, then
    over the completions. dapo (eq. 8), cispo (MiniMax-M1 eq. 4), vespo and bnpo: mean over all
    tokens of the update. dr_grpo: sum over the number of completions and a constant, the completion
    limit.
    luspo: GSPO's terms times the completion's length, in the mean over the completions.
    """
    everything = sum(sum(of_one) for of_one in terms)
    if options.loss_type == "dr_grpo":
        return everything / (len(batch) * options.limit)
    if options.loss_type in ("dapo", "cispo", "bnpo", "vespo"):
        return everything / max(1, sum(len(of_one) for of_one in terms))
    if options.loss_type == "luspo":
        return everything / len(batch)
    means = [sum(of_one) / max(1, len(of_one)) for of_one in terms]
    return sum(means) / len(batch)


def is_too_far(completion: Completion, options: Options) -> bool:
    """DeepSeek-V3.2, section 3.1: bad, and its tokens are rarer than when they were sampled.

    By more than the threshold, in the mean of their log-probs.
    """
    if not options.off_policy_mask_threshold or completion.advantage >= 0:
        return False
    still = replace(completion, moved=None)
    drift = float(np.mean(still.behaviour - still.policy))
    return drift > options.off_policy_mask_threshold


def ratio(completion: Completion, options: Options, t: int) -> float:
    """How much likelier the policy makes token t, or the whole completion, than the sampler did.

    Token level: DeepSeekMath eq. 3. Sequence level: GSPO eq. 7, the geometric mean over the tokens.
    rloo takes the completion as one action (RLOO, section 3.1): the product over the tokens.
    """
    steps = completion.policy - completion.behaviour
    if options.loss_type == "rloo":
        return float(np.exp(sum(steps)))
    if options.is_sequence_level:
        return float(np.exp(sum(steps) / len(steps)))
    return float(np.exp(steps[t]))


def surrogate(completion: Completion, options: Options, t: int) -> float:
    """What the objective pays for token t, to be maximised."""
    if options.loss_type == "cispo":
        return cispo(completion, options, t)
    if options.loss_type == "vespo":
        return completion.advantage * float(completion.policy[t])
    r, advantage = ratio(completion, options, t), completion.advantage
    if options.loss_type == "sapo":
        return soft_gate(r, advantage) * advantage
    return clipped(r, advantage, options)


def clipped(r: float, advantage: float, options: Options) -> float:
    """DeepSeekMath eq. 3 with DAPO's two widths (eq. 8).

    Two-sided (INTELLECT-2): the first argument's ratio is at most `clip_delta`, so that a negative
    advantage cannot be multiplied without bound.
    """
    free = min(r, options.clip_delta) if options.clip_delta else r
    fenced = min(max(r, 1 - options.clip_eps), 1 + options.high)
    return min(free * advantage, fenced * advantage)


def cispo(completion: Completion, options: Options, t: int) -> float:
    """MiniMax-M1 eq. 4 and 5: sg(min(r, 1 + eps_high)) * A * log pi, without a lower bound.

    The paper's upper bound is 1 + eps_high. TRL's is eps_high itself, which with our default of
    0.2 would only scale every gradient by 0.2; here the paper counts.
    """
    constant = replace(completion, moved=None)
    weight = min(ratio(constant, options, t), 1 + options.high)
    return weight * completion.advantage * float(completion.policy[t])


def vespo_kernel(completion: Completion, weights: Array) -> float:
    """VESPO: phi(w) = w^k exp(lambda (1 - w)), a constant that scales A * log pi of every token.

    w is the ratio of the whole completion, a product over its tokens of ratio and weight for the
    sampler, as TRL has it; TRL's k and lambda too: 2 and 3, for a negative advantage 3 and 2.
    """
    constant = replace(completion, moved=None)
    w = float(np.prod(np.exp(constant.policy - constant.behaviour)))
    w = max(w * float(np.prod(np.maximum(weights, 1e-8))), 1e-8)
    k, decay = (2, 3) if completion.advantage >= 0 else (3, 2)
    return float(w**k * np.exp(decay * (1 - w)))


def soft_gate(r: float, advantage: float) -> float:
    """SAPO: sigmoid(tau (r - 1)) * 4 / tau, whose slope is 1 at r = 1.

    The paper's and TRL's temperatures: 1.0 for a positive advantage, 1.05 for the others.
    """
    tau = 1.0 if advantage > 0 else 1.05
    return float(4 / tau / (1 + np.exp(-tau * (r - 1))))


def divergence(completion: Completion, estimator: str, t: int) -> float:
    """Schulman's estimators of KL(policy || reference) from one token drawn from the policy.

    With d = log ref - log policy: k1 = -d; k2 = d^2 / 2; k3 = exp(d) - d - 1 (DeepSeekMath eq. 4).
    Differentiated as they stand, without an importance ratio (DeepSeekMath eq. 3).
    """
    assert completion.ref is not None
    d = float(completion.ref[t] - completion.policy[t])
    return {"k1": -d, "k2": d * d / 2, "k3": float(np.exp(d)) - d - 1}[estimator]


def sampler_weights(completion: Completion, options: Options) -> Array:
    """Importance weights [T] where tokens were not drawn from the policy itself; constants.

    policy over sampler, at the time of sampling. token_*: each token's own; sequence_*: the
    product over the completion. *_truncate (TIS) cuts at the bound, *_mask (MIS) makes 0 of what
    lies above.
    No lower bound (TRL's default).
    """
    if options.rollout_is == "none" or completion.sampler is None:
        return np.ones(len(completion.logps))
    steps = completion.behaviour - completion.sampler
    if options.rollout_is.startswith("sequence"):
        steps = np.full(len(steps), sum(steps))
    weights = np.exp(steps)
    if options.rollout_is.endswith("truncate"):
        return np.minimum(weights, options.rollout_is_max)
    return np.where(weights > options.rollout_is_max, 0.0, weights)


def high_entropy_tokens(batch: Sequence[Completion], options: Options) -> list[Array]:
    """80/20: 1 for the share of tokens with the highest entropy, 0 for the others; [T] each.

    The threshold is a quantile (linear between two values, as TRL's) over all tokens of the update
    that are in the loss, and a token at the threshold stays. The divisors still count every token.
    """
    used = [learning_tokens(c, options) > 0 for c in batch]
    if options.top_entropy_quantile >= 1:
        return [np.full(len(c.logps), float(u)) for c, u in zip(batch, used, strict=True)]
    pool = [h for c, u in zip(batch, used, strict=True) if u for h in _entropies(c)]
    threshold = np.quantile(pool, 1 - options.top_entropy_quantile) if pool else np.inf
    return [(_entropies(c) >= threshold) * float(u) for c, u in zip(batch, used, strict=True)]


def entropy_bonus(batch: Sequence[Completion], kept: list[Array]) -> float:
    """Mean entropy over the tokens that learn, for every loss_type the same (TRL)."""
    count = sum(keep.sum() for keep in kept)
    total = sum((keep * _entropies(c)).sum() for c, keep in zip(batch, kept, strict=True))
    return float(total / max(1.0, count))


def _entropies(completion: Completion) -> Array:
    assert completion.entropies is not None
    return completion.entropies


# -- what the log says ------------------------------------------------------------------------


def statistics(batch: Sequence[Completion], options: Options) -> dict[str, float]:
    """The measures of one update that the log shows.

    policy_reward is what the loss is made of before KL and entropy. kl, entropy, ratio, clip_frac
    are means over the tokens in the loss, whatever the loss_type averages.
    """
    bare = replace(options, kl_coeff=0.0, entropy_coef=0.0)
    tokens = [(c, t) for c in batch for t in range(learning_tokens(c, options))]
    each = {
        "entropy": [_entropies(c)[t] for c, t in tokens],
        "ratio": [ratio(c, options, t) for c, t in tokens],
        "clip_frac": [bool(clipped_side(c, options, t)) for c, t in tokens],
        "clip_frac_low": [clipped_side(c, options, t) < 0 for c, t in tokens],
        "clip_frac_high": [clipped_side(c, options, t) > 0 for c, t in tokens],
    }
    if all(c.sampler is not None for c in batch):
        each["sampling_logp_difference"] = [abs(c.behaviour[t] - c.sampler[t]) for c, t in tokens]
    if options.kl_coeff:
        each["kl"] = [divergence(c, options.kl_estimator, t) for c, t in tokens]
    means = {name: float(sum(values) / max(1, len(tokens))) for name, values in each.items()}
    return {"loss": loss(batch, options), "policy_reward": -loss(batch, bare), **means}


def clipped_side(completion: Completion, options: Options, t: int) -> int:
    """Where the clip stops token t: -1 bad and already too rare, 1 good and already too likely.

    As TRL counts; cispo's weight is cut whatever the advantage, and vespo has no clip.
    """
    if options.loss_type == "vespo":
        return 0
    r, advantage = ratio(completion, options, t), completion.advantage
    if options.loss_type == "cispo":
        return int(r > 1 + options.high)
    if advantage < 0 and r < 1 - options.clip_eps:
        return -1
    return int(advantage > 0 and r > 1 + options.high)


# -- gradients --------------------------------------------------------------------------------


def gradient(batch: Sequence[Completion], options: Options, step: float = 1e-6) -> list[Array]:
    """d loss / d log-prob of every token, by central differences; one [T] for each completion."""
    return [
        np.array(
            [_slope(batch, options, i, "moved", c.logps, t, step) for t in range(len(c.logps))]
        )
        for i, c in enumerate(batch)
    ]


def entropy_gradient(
    batch: Sequence[Completion], options: Options, step: float = 1e-6
) -> list[Array]:
    """d loss / d entropy of every token, the same way; which tokens learn is held fixed."""
    return [
        np.array(
            [
                _slope(batch, options, i, "entropies", _entropies(c), t, step)
                for t in range(len(c.logps))
            ]
        )
        for i, c in enumerate(batch)
    ]


def _slope(
    batch: Sequence[Completion],
    options: Options,
    i: int,
    name: str,
    values: Array,
    t: int,
    step: float,
) -> float:
    """Central difference by `values[t]`, put into the field `name` of completion i."""
    ends = []
    for sign in (1, -1):
        shifted = values.copy()
        shifted[t] += sign * step
        ends.append(
            loss([*batch[:i], replace(batch[i], **{name: shifted}), *batch[i + 1 :]], options)
        )
    return (ends[0] - ends[1]) / (2 * step)
