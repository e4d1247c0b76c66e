"""The policy: a base model with adapters or trained in full, its reference, and how it is saved.

What we save mlx-lm loads. How the model is run is in `trunk_head.py` and `shared_prefix.py`.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten
from mlx_lm.utils import save_model

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.config.values import named_path
from grpo_core.errors import ModelError
from grpo_core.model import gated_delta
from grpo_core.model.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    Adapter,
    adapter_modules,
    add_adapters,
    replace_modules,
    start_from,
    wrapped,
)
from grpo_core.model.base_model import (
    BASE_BITS,
    BUILTINS,
    COMPANION_FILES,
    GROUP_SIZE,
    base_folder,
    bits_of,
    load_base,
    load_weights,
    quantize_base,
    read_tokenizer,
)
from grpo_core.model.load_probe import Findings, examine, must_give_numbers, must_learn
from grpo_core.model.precision import cast, precision
from grpo_core.model.trained_weights import TrainedWeights
from grpo_core.model.trunk_head import Params, SplitModel
from grpo_core.model.turn_end import end_tokens


@dataclass(slots=True)
class Policy:
    """The model that samples and learns. Made by `load_policy`."""

    model: nn.Module
    tokenizer: Any  # mlx_lm's TokenizerWrapper
    eos_ids: frozenset[int]
    train_type: str
    base: str  # model_name as configured
    base_path: Path
    base_bits: int  # 0: not quantised
    held_as: str  # the base's numbers, such as "bfloat16 in 4 bits"
    quantized_here: bool  # by quantize_for_rollouts, not by its maker
    adapter: Adapter | None  # None with train_type full
    config: dict[str, Any]  # the model's config.json
    vocab_size: int
    split: SplitModel
    can_share_prefix: bool  # it can, and prefix_sharing is on
    reference_weights: Params | None
    """With kl_coeff > 0: the first weights, or what `sync_reference` has made of them since; not
    kept for new adapters without sync_ref_model, which are just taken out."""
    starts_trained: bool  # what is trained was so before; not so for new adapters
    can_mix_lengths: bool = True  # prompts of several lengths in one batch of decoding
    prefix_difference: float = 0.0  # log-probs behind a shared prompt from plain ones, nats
    notes: tuple[str, ...] = ()  # lines for the user about what was loaded
    _trained: TrainedWeights | None = field(default=None, init=False)

    @property
    def parameter_count(self) -> int:
        """Numbers in the model's arrays; those of a quantised weight are packed into fewer."""
        arrays: dict[str, mx.array] = dict(tree_flatten(self.model.parameters()))
        return sum(array.size for array in arrays.values())

    @property
    def trained(self) -> TrainedWeights:
        """Where the model keeps what is trained; found when it is first asked for."""
        if self._trained is None:
            self._trained = TrainedWeights(self.model)
        return self._trained

    def trainable(self) -> Params:
        """What is trained, by flat name, in the model's own dtype."""
        return self.trained.arrays()

    def set_trainable(self, params: Params) -> None:
        """Puts weights in, cast to the model's dtype. Raises ModelError if they do not fit."""
        held = self.trainable()
        if held.keys() != params.keys():
            odd = sorted(held.keys() ^ params.keys())
            raise ModelError(f"weights do not fit the model: {odd[0]} and {len(odd) - 1} others")
        for name, value in params.items():
            if value.shape != held[name].shape:
                raise ModelError(
                    f"weights do not fit the model: {name} is {value.shape}, not {held[name].shape}"
                )
        self.trained.put({name: a.astype(held[name].dtype) for name, a in params.items()})

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is the reference: as before this run's first update, bit for bit.

        With sync_ref_model, what was made of that since. Where the run began with trained weights
        (train_type full, adapter_path) these are put in; new adapters change nothing at first, and
        are taken out, not scaled to zero. Raises ModelError if the first weights were not kept.
        """
        if self.reference_weights is None and self.starts_trained:
            raise ModelError("no reference: the first weights are kept only with kl_coeff > 0")
        if self.reference_weights is not None:
            current = self.trainable()
            self.set_trainable(self.reference_weights)
            try:
                yield
            finally:
                self.set_trainable(current)
            return
        adapted = dict(adapter_modules(self.model))
        replace_modules(self.model, {name: wrapped(module) for name, module in adapted.items()})
        try:
            yield
        finally:
            replace_modules(self.model, adapted)

    def sync_reference(self, alpha: float) -> None:
        """Move the reference towards the policy: alpha * policy + (1 - alpha) * reference.

        TR-DPO (arXiv 2404.09656, equation 7), TRL's sync_ref_model. Of adapters it is the factors
        that are mixed, whose product is the mixed weight to first order, and exactly at 1.
        """
        if self.reference_weights is None:
            raise ModelError("no reference: its weights are kept only with sync_ref_model")
        mixed = {
            name: _mixed(alpha, own, self.reference_weights[name])
            for name, own in self.trainable().items()
        }
        mx.eval(mixed)
        self.reference_weights = mixed

    def save(self, folder: Path, cfg: MLXGRPOConfig) -> None:
        """Writes what mlx_lm.load needs: adapters with their config, or the whole model.

        The caller makes it atomic.
        """
        folder.mkdir(parents=True, exist_ok=True)
        if self.adapter is None:
            _save_whole(self, folder)
        else:
            mx.save_safetensors(str(folder / ADAPTER_WEIGHTS), self.trainable())
            text = json.dumps(_adapter_config(self, self.adapter, cfg), indent=2, sort_keys=True)
            (folder / ADAPTER_CONFIG).write_text(text + "\n", encoding="utf-8")


def _mixed(alpha: float, own: mx.array, reference: mx.array) -> mx.array:
    """In fp32, kept in the model's type."""
    if alpha == 1:
        return own
    parts = alpha * own.astype(mx.float32) + (1 - alpha) * reference.astype(mx.float32)
    return parts.astype(own.dtype)


# --- loading


def load_policy(cfg: MLXGRPOConfig) -> Policy:
    """The model to train, as configured. Raises ModelError with what is wrong and what to try."""
    gated_delta.install()
    path = base_folder(cfg.model_name, cfg.model_revision)
    model, config = load_base(path, cfg)
    bits = bits_of(config)
    _refuse_quantized_full(cfg, bits)
    held = precision(config, cfg)
    if held.casts:
        cast(model, held.dtype)
        config = config | {"torch_dtype": held.name}
    wants_bits = held.quantize
    embeddings = quantize_base(model, GROUP_SIZE, BASE_BITS) if wants_bits else {}
    load_weights(model)
    model.eval()
    split = SplitModel(model)
    found = examine(split, cfg, partial(_put_back, model, embeddings))
    embeddings.clear()
    model.freeze()  # after quantising, which makes new layers
    adapter = None
    if cfg.train_type == "full":
        model.unfreeze()
    elif cfg.adapter_path:
        adapter = start_from(model, named_path(cfg.adapter_path), cfg)
    else:
        adapter = add_adapters(model, cfg)
    model.eval()
    base = _Base(path, config, BASE_BITS if wants_bits else bits, wants_bits, held.name, held.note)
    return _policy(cfg, base, split, found, adapter)


def _put_back(model: nn.Module, embeddings: dict[str, nn.Module]) -> bool:
    """Undoes the quantisation of embeddings, whose weights some models multiply themselves."""
    replace_modules(model, embeddings)
    return bool(embeddings)


@dataclass(frozen=True, slots=True)
class _Base:
    """What was loaded, before adapters."""

    path: Path
    config: dict[str, Any]
    bits: int
    quantized_here: bool
    dtype: str
    note: str  # how it is held; perhaps empty

    @property
    def held_as(self) -> str:
        """Its numbers, as a message."""
        return f"{self.dtype} in {self.bits} bits" if self.bits else self.dtype


def _policy(
    cfg: MLXGRPOConfig, base: _Base, split: SplitModel, found: Findings, adapter: Adapter | None
) -> Policy:
    if not tree_flatten(split.model.trainable_parameters()):
        raise ModelError(
            f"{cfg.model_name}: nothing to train; lora_keys = {cfg.lora_keys} names no layer"
        )
    mx.eval(split.model.parameters())
    must_learn(split.model, cfg)
    must_give_numbers(split.model, found.vocab_size, cfg)  # with its adapters, too
    tokenizer = read_tokenizer(base.path, base.config, cfg)
    ends = end_tokens(tokenizer, cfg)
    _ = split.head_names
    starts_trained = adapter is None or bool(cfg.adapter_path)
    policy = Policy(
        model=split.model,
        tokenizer=tokenizer,
        eos_ids=ends.ids,
        train_type=cfg.train_type,
        base=cfg.model_name,
        base_path=base.path,
        base_bits=base.bits,
        held_as=base.held_as,
        quantized_here=base.quantized_here,
        adapter=adapter,
        config=base.config,
        vocab_size=found.vocab_size,
        split=split,
        can_share_prefix=found.can.share_prefix,
        can_mix_lengths=found.can.mix_lengths,
        prefix_difference=found.can.shared,
        reference_weights=None,
        starts_trained=starts_trained,
        notes=tuple(filter(None, (base.note, *found.notes, *ends.notes))),
    )
    if cfg.kl_coeff > 0 and (starts_trained or cfg.sync_ref_model):
        policy.reference_weights = policy.trainable()
    return policy


def _refuse_quantized_full(cfg: MLXGRPOConfig, bits: int) -> None:
    if cfg.train_type == "full" and bits:
        raise ModelError(
            f"{cfg.model_name} is quantised to {bits} bits, and quantised weights cannot be "
            "trained in full; set train_type=lora, or name the model without quantisation "
            "(`mlx_lm.convert --dequantize` makes one)"
        )


# --- saving


def _adapter_config(policy: Policy, adapter: Adapter, cfg: MLXGRPOConfig) -> dict[str, Any]:
    """adapter_config.json as mlx-lm wants it, plus the base these adapters were trained on."""
    return {
        "fine_tune_type": policy.train_type,
        "num_layers": adapter.layers,
        "lora_parameters": adapter.parameters,
        "model": str(policy.base_path) if policy.base in BUILTINS else policy.base,
        "base_model": policy.base,
        "base_revision": cfg.model_revision,
        "base_bits": policy.base_bits,
        "base_quantized_at_load": policy.quantized_here,
    }


def _save_whole(policy: Policy, folder: Path) -> None:
    """Weights and config as they are now; the tokenizer's files as they came."""
    save_model(folder, policy.model)
    text = json.dumps(policy.config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    for pattern in COMPANION_FILES:
        for file in policy.base_path.glob(pattern):
            if not file.name.startswith("model.") and file.name != "config.json":
                shutil.copyfile(file, folder / file.name)
