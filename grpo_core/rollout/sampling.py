"""Logits -> tokens: temperature, filters and draws, each row with a key of its own.

The log-prob of what was drawn comes along, by the policy itself and after the filters, so that
nothing has to be run again to know it. `generate.py` asks for the tokens.
"""

import math
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.model.cpu import exp


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    The penalty applies to the logits of the model, the filters to softmax(logits / temperature).
    """

    temperature: float  # 0: greedy
    max_tokens: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
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
            repetition_penalty=cfg.repetition_penalty,
            stop=tuple(cfg.stop),
        )

    @property
    def filters(self) -> bool:
        """Whether tokens come from another distribution than the policy's own."""
        chosen = self.top_p < 1 or self.top_k > 0 or self.min_p > 0
        return self.temperature > 0 and (chosen or self.penalises)

    @property
    def penalises(self) -> bool:
        """Whether it matters which tokens were seen before."""
        return self.temperature > 0 and self.repetition_penalty != 1


Drawn = tuple[mx.array, mx.array, mx.array]
"""Tokens, their log-probs by the policy, and by what they were drawn from; each [B]."""


def draw(
    logits: mx.array,
    keys: mx.array,
    step: int,
    sampling: Sampling,
    seen: mx.array | None = None,
) -> Drawn:
    """Tokens [B], their log-probs [B], and their log-probs after penalty and filters [B].

    `logits` [B, V]; row b draws token `step` of its completion with a key made of `keys[b]` and
    the step, and nothing else. `seen` [B, V]: which tokens prompt and completion hold so far.
    """
    logits = logits.astype(mx.float32)
    if sampling.temperature == 0:
        token = mx.argmax(logits, axis=-1)
        logp = _Softmax.of(logits, 1).logp(token)
        return token, logp, logp
    own = _Softmax.of(logits, sampling.temperature)
    source = own
    if sampling.filters:
        logits = logits if seen is None else penalised(logits, seen, sampling.repetition_penalty)
        over = logits / sampling.temperature
        source = _Softmax.of(filtered(over, sampling), 1)
    # The second word moves on with the step: another key, and no state.
    token = pick(source.odds, keys + mx.array([0, step], mx.uint32))
    logp = own.logp(token)
    return token, logp, source.logp(token) if sampling.filters else logp


def pick(odds: mx.array, keys: mx.array) -> mx.array:
    """Tokens [B], each as likely as its share of the `odds` [B, V], by one key a row.

    First a block of tokens by the blocks' sums, then a token within it, each by one number: two
    short sums of sums instead of one over the vocabulary, in which a small share would drown.
    """
    blocks = _in_blocks(odds)
    luck = _two_uniform(keys)
    block = _first_above(blocks.sum(axis=-1), luck[:, :1])
    within = mx.take_along_axis(blocks, block[:, None, None], axis=1).squeeze(1)
    return block * blocks.shape[-1] + _first_above(within, luck[:, 1:])


def _in_blocks(odds: mx.array) -> mx.array:
    """[B, V] -> [B, blocks, tokens of a block], about as many of the one as of the other."""
    rows, vocab = odds.shape
    root = math.isqrt(vocab)
    width = next((w for w in range(root, root // 4, -1) if vocab % w == 0), root + 1)
    if vocab % width:
        odds = mx.pad(odds, [(0, 0), (0, -vocab % width)])
    return odds.reshape(rows, -1, width)


@mx.vmap
def _two_uniform(key: mx.array) -> mx.array:
    return mx.random.uniform(shape=(2,), key=key)


def _first_above(odds: mx.array, luck: mx.array) -> mx.array:
    """Where the sum of `odds` [B, N] so far exceeds the share `luck` [B, 1] of it all; never at 0.

    A device may sum in an order in which the sums so far do not grow all the way.
    """
    reached = mx.where(odds > 0, mx.cumsum(odds, axis=-1), 0)
    wanted = luck * reached.max(axis=-1, keepdims=True)
    return mx.argmax(reached > wanted, axis=-1)


@dataclass(frozen=True, slots=True)
class _Softmax:
    """Of logits [B, V] over a temperature: how far they lie below each row's top, and their odds.

    `below` is not over the temperature yet; `odds` are e to the power of it when it is.
    """

    below: mx.array
    odds: mx.array
    temperature: float

    @classmethod
    def of(cls, logits: mx.array, temperature: float) -> "_Softmax":
        below = logits - logits.max(axis=-1, keepdims=True)
        return cls(below, exp(below, 1 / temperature), temperature)

    def logp(self, token: mx.array) -> mx.array:
        """Log-probs of one token a row, [B]."""
        chosen = mx.take_along_axis(self.below, token[:, None], axis=-1).squeeze(-1)
        return chosen / self.temperature - mx.log(self.odds.sum(axis=-1))


def penalised(logits: mx.array, seen: mx.array, penalty: float) -> mx.array:
    """`logits` [B, V] with those of `seen` tokens over the penalty, and times it below 0.

    CTRL (arXiv 1909.05858, section 4.1), with the sign taken care of as in transformers.
    """
    less = mx.where(logits > 0, logits / penalty, logits * penalty)
    return mx.where(seen, less, logits)


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
