"""The fewest floating-point operations of one update: pure arithmetic.

Counted are matrix products, a multiplication and an addition each: linear layers, the vocabulary
head, and attention's two products over the keys that a token sees (causal, so the upper triangle
is not counted). The prompt runs once; so does its last position, from which all completions begin;
of a completion's C tokens C - 1 run through the model. Sampling is one forward pass. Learning is a
forward pass and a backward pass with the gradient by inputs and by weights, of twice its size;
with adapters the base has no gradient by weights. Nothing is recomputed. Norms, softmax, rotary
embeddings and the optimizer are left out, which makes the floor lower.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks._trainer.work import Setting


@dataclass(frozen=True)
class Flops:
    """Of one update."""

    rollout: int
    learning: int

    @property
    def total(self) -> int:
        """Both."""
        return self.rollout + self.learning


def linear_shapes(config: Mapping[str, Any]) -> list[tuple[int, int]]:
    """(inputs, outputs) of the seven linear layers of a block."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    keys = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    attention = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    return [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]


def fewest(config: Mapping[str, Any], setting: Setting, prompt: int, rank: int = 0) -> Flops:
    """For prompts of so many tokens; `rank` of the adapters, 0 where all weights are trained."""
    shapes = linear_shapes(config)
    layers, hidden = config["num_hidden_layers"], config["hidden_size"]
    behind = setting.tokens - 1
    tokens = prompt + setting.group * behind
    heads = 1 + setting.group * behind
    # Completion token t, counted from 1, sees the prompt, those before it, and itself.
    seen = prompt * (prompt + 1) // 2
    seen += setting.group * (behind * prompt + behind * (behind + 1) // 2)
    linear = 2 * layers * tokens * sum(a * b for a, b in shapes)
    head = 2 * heads * hidden * config["vocab_size"]
    attention = 2 * 2 * layers * seen * hidden
    adapters = 2 * layers * tokens * rank * sum(a + b for a, b in shapes)
    forward = linear + head + attention + adapters
    backward = 2 * forward - (linear + head if rank else 0)
    return Flops(setting.prompts * forward, setting.prompts * (forward + backward))
