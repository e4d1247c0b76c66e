"""What a model must show before a run is trusted to it, tried on a few tokens while it is loaded.

mlx-lm has a hundred families, and in some a pass without caches is another model than decoding
with them, or no gradient comes back. Each of these is refused here by name, instead of a traceback
or, worse, a run that learns from what another policy sampled.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.cache import RotatingKVCache, make_prompt_cache

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model.decode_cache import parts_of
from grpo_core.model.finite import first_fault, gives_numbers
from grpo_core.model.gradient_checkpointing import probe_gradient
from grpo_core.model.shared_prefix import Abilities, abilities, log_softmax
from grpo_core.model.trunk_head import SplitModel
from grpo_core.run.protocol import machine_fault

# What mlx-lm's models raise where something does not fit them.
FAULTS = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)

# Tokens that a model reads to show that it gives numbers.
READ = 16

# Tokens that are decoded after the others have been taken in at once.
DECODED = 4

# Mean KL divergence in nats from which on two passes are two policies. Rounding gives 1e-10 in
# fp32 and up to 1e-2 in 16 bits; a wrong mask, window or position gives 0.1 and more.
TOLERANCE_FP32 = 1e-5
TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Findings:
    """What was seen of a model."""

    vocab_size: int
    can: Abilities
    notes: tuple[str, ...]
    """Lines for the user about what it cannot do."""


def examine(split: SplitModel, cfg: MLXGRPOConfig, mend: Callable[[], bool]) -> Findings:
    """Tries a loaded base without adapters.

    If it fails, `mend` may change it and have it tried once more. Raises ModelError.
    """
    some = mx.arange(4)[None]
    try:
        vocab = _width(split.model, some)
    except FAULTS as error:
        if _is_of_the_machine(error):
            raise
        if not mend():
            raise _failure(cfg, "on a few tokens", error) from error
        vocab = tried(cfg, "on a few tokens", lambda: _width(split.model, some))
    must_give_numbers(split.model, vocab, cfg)
    uncut = split.check(some)
    can = Abilities()
    if cfg.prefix_sharing:
        can = abilities(split, vocab, _probe_length(split.model, cfg))
    if not can.share_prefix:
        _must_decode_as_it_learns(split.model, vocab, cfg)
    return Findings(vocab, can, tuple(_notes(uncut, can, cfg)))


def _notes(uncut: str, can: Abilities, cfg: MLXGRPOConfig) -> Iterator[str]:
    if uncut:
        yield (
            "[model] its vocabulary head does not run apart from the rest, so that every position "
            f"gets logits, which takes more memory ({uncut})"
        )
    if not cfg.prefix_sharing or can.share_prefix:
        return
    why = (
        "its layers keep a prompt in a way of their own"
        if math.isinf(can.shared)
        else f"log-probs behind a shared prompt are up to {can.shared:.1e} nats from plain ones "
        f"(at most {can.tolerance:g} may be)"
    )
    yield (
        f"[model] {why}, so that it is not shared within a group, which takes more time and memory"
    )


def must_give_numbers(model: nn.Module, vocab: int, cfg: MLXGRPOConfig) -> None:
    """Reads some tokens. Raises ModelError, with the first layer that overflows or is broken."""
    ids = [(7 * i + 1) % vocab for i in range(READ)]
    if tried(cfg, "on a few tokens", lambda: gives_numbers(model(mx.array([ids])))):
        return
    raise ModelError(
        f"{cfg.model_name}: the model gives no numbers (NaN or infinite logits): "
        f"{first_fault(model, ids)}; weights made for bfloat16 overflow in float16"
    )


def must_learn(model: nn.Module, cfg: MLXGRPOConfig) -> None:
    """Takes one gradient by all that is trained. Raises ModelError."""
    trained = f"where a gradient is taken (train_type = {cfg.train_type})"
    grads = tried(cfg, trained, lambda: probe_gradient(model, lambda: model(mx.arange(1, 5)[None])))
    if not any(bool(mx.any(grad != 0).item()) for grad in grads.values()):
        raise ModelError(
            f"{cfg.model_name}: the output depends on nothing that is trained; choose other "
            f"lora_keys than {cfg.lora_keys}"
        )


def tried(cfg: MLXGRPOConfig, when: str, work: Callable[[], Any]) -> Any:
    """What `work` gives; ModelError for what mlx-lm's model raises.

    Short memory and a GPU's faults, which MLX raises as RuntimeError too, go on as they are.
    """
    try:
        return work()
    except FAULTS as error:
        if _is_of_the_machine(error):
            raise
        raise _failure(cfg, when, error) from error


def _is_of_the_machine(error: Exception) -> bool:
    return machine_fault(str(error)) is not None


def _failure(cfg: MLXGRPOConfig, when: str, error: Exception) -> ModelError:
    words = str(error).strip().split("\n")[0]
    return ModelError(
        f"{cfg.model_name}: mlx-lm's model fails {when}: {type(error).__name__}: {words}"
    )


def _width(model: nn.Module, ids: mx.array) -> int:
    logits = model(ids)
    mx.eval(logits)
    return int(logits.shape[-1])


def _must_decode_as_it_learns(model: nn.Module, vocab: int, cfg: MLXGRPOConfig) -> None:
    """Rollouts take the model's caches, the update a pass without: one policy, or ModelError."""
    length = _probe_length(model, cfg)
    ids = (mx.arange(length)[None] * 7 + 1) % vocab
    apart = tried(cfg, "with its own caches", lambda: _apart(model, ids))
    if apart["kl"] < apart["tolerance"]:  # NaN is no agreement
        return
    raise ModelError(
        f"{cfg.model_name}: with its caches, token by token, it gives other log-probs than in one "
        f"pass (KL divergence {apart['kl']:.2g} nats), so it would learn from what another policy "
        "sampled; mlx-lm's models of this type cannot be trained"
    )


def _probe_length(model: nn.Module, cfg: MLXGRPOConfig) -> int:
    """Enough tokens to leave the shortest window behind, but no more than a run can reach."""
    longest = cfg.max_prompt_length + cfg.completion_limit
    parts = parts_of(make_prompt_cache(model))
    sizes = [part.max_size for part in parts if isinstance(part, RotatingKVCache)]
    window = min(sizes, default=0)
    wanted = 2 * DECODED + (window if window < longest else DECODED)
    return max(DECODED + 1, min(wanted, longest))


def _apart(model: nn.Module, ids: mx.array) -> dict[str, float]:
    """Mean KL divergence of decoding from one pass over `ids` [1, T], and what is tolerable."""
    whole = model(ids)[:, -DECODED - 1 :]
    caches = make_prompt_cache(model)
    parts = [model(ids[:, :-DECODED], cache=caches)[:, -1:]]
    parts += [model(ids[:, [t]], cache=caches) for t in range(ids.shape[1] - DECODED, ids.shape[1])]
    plain, decoded = log_softmax(whole), log_softmax(mx.concatenate(parts, axis=1))
    kl = (mx.exp(plain) * (plain - decoded)).sum(axis=-1).mean()
    in_fp32 = whole.dtype == mx.float32
    apart: Any = kl.item()
    return {"kl": apart, "tolerance": TOLERANCE_FP32 if in_fp32 else TOLERANCE}
