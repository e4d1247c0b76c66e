"""Logits -> tokens: temperature, filters and draws, each row with a key of its own.

The log-prob of what was drawn comes along, by the policy itself and after the filters, so that
nothing has to be run again to know it. `generate.py` asks for the tokens.
"""

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model.cpu import exp


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. Filters apply to softmax(logits / temperature): top_k, top_p, min_p."""

    temperature: float  # 0: greedy
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    @classmethod
    def of(cls, cfg: MLXGRPOConfig) -> "Sampling":
        """Sampling for training."""
        return cls(
            temperature=cfg.temperature,
            max_tokens=cfg.completion_limit,
            top_p=cfg.top_p,
            top_k=cfg.top_k,
            min_p=cfg.min_p,
            stop=tuple(cfg.stop),
        )

    @property
    def filters(self) -> bool:
        """Whether tokens come from another distribution than the policy's own."""
        return self.temperature > 0 and (self.top_p < 1 or self.top_k > 0 or self.min_p > 0)


Drawn = tuple[mx.array, mx.array, mx.array]
"""Tokens, their log-probs by the policy, and by what they were drawn from; each [B]."""


def draw(logits: mx.array, keys: mx.array, step: int, sampling: Sampling) -> Drawn:
    """Tokens [B], their log-probs [B], and their log-probs after the filters [B].

    `logits` [B, V]; row b draws token `step` of its completion with a key made of `keys[b]` and
    the step, and nothing else.
    """
    logits = logits.astype(mx.float32)
    if sampling.temperature == 0:
        token = mx.argmax(logits, axis=-1)
        logp = _Softmax.of(logits).logp(token)
        return token, logp, logp
    if sampling.temperature != 1:
        logits = logits / sampling.temperature
    own = _Softmax.of(logits)
    source = _Softmax.of(filtered(logits, sampling)) if sampling.filters else own
    # The second word moves on with the step: another key, and no state.
    token = _race(source.odds, keys + mx.array([0, step], mx.uint32))
    logp = own.logp(token)
    return token, logp, source.logp(token) if sampling.filters else logp


@mx.vmap
def _race(odds: mx.array, key: mx.array) -> mx.array:
    """A token by its `odds` [V]: the one whose exponential clock rings first.

    The token of `mx.random.categorical` by the same key, with a logarithm less.
    """
    clock = -mx.log(mx.random.uniform(shape=odds.shape, key=key))
    return mx.argmax(odds / clock, axis=-1)


@dataclass(frozen=True, slots=True)
class _Softmax:
    """Of logits [B, V]: how far they lie below each row's top, and e to the power of that."""

    below: mx.array
    odds: mx.array

    @classmethod
    def of(cls, logits: mx.array) -> "_Softmax":
        below = logits - logits.max(axis=-1, keepdims=True)
        return cls(below, exp(below))

    def logp(self, token: mx.array) -> mx.array:
        """Log-probs of one token a row, [B]."""
        chosen = mx.take_along_axis(self.below, token[:, None], axis=-1).squeeze(-1)
        return chosen - mx.log(self.odds.sum(axis=-1))


def filtered(logits: mx.array, sampling: Sampling) -> mx.array:
    """`logits` [B, V], already over the temperature, with -inf where the filters say no.

    In this order, each on what the one before has left: top_k best tokens; the fewest best tokens
    whose probabilities reach top_p; tokens with at least min_p times the best one's probability.
    Ties at the edge stay in.
    """
    if 0 < sampling.top_k < logits.shape[-1]:
        edge = mx.topk(logits, sampling.top_k, axis=-1).min(axis=-1, keepdims=True)
        logits = mx.where(logits >= edge, logits, -mx.inf)
    if sampling.top_p < 1:
        best_first = -mx.sort(-logits, axis=-1)
        probs = mx.softmax(best_first, axis=-1)
        before = mx.cumsum(probs, axis=-1) - probs
        edge = mx.where(before < sampling.top_p, best_first, mx.inf).min(axis=-1, keepdims=True)
        logits = mx.where(logits >= edge, logits, -mx.inf)
    if sampling.min_p > 0:
        edge = logits.max(axis=-1, keepdims=True) + float(np.log(sampling.min_p))
        logits = mx.where(logits >= edge, logits, -mx.inf)
    return logits
