"""The policy: an mlx-lm model with adapters or in full, its tokenizer, its reference, its files.

Loading and saving go through mlx-lm, so whatever it loads we train, and whatever we save it loads.
Nothing is unpickled, and a model's own code runs only with `trust_remote_code`. How the model is
run is the business of `forward`.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from huggingface_hub.errors import StrictDataclassError
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.utils import (
    DEFAULT_ALLOW_PATTERNS,
    load_config,
    load_model,
    load_tokenizer,
    save_model,
)

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.errors import ModelError
from grpo_core.model import gated_delta, tiny
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
from grpo_core.model.load_probe import Findings, examine, must_learn
from grpo_core.model.trunk_head import Params, SplitModel

# mlx-lm's defaults for `convert -q`.
BASE_BITS = 4
GROUP_SIZE = 64

# Tokenizer, chat template, generation defaults, own code: what mlx-lm reads beside the weights.
COMPANION_FILES = tuple(p for p in DEFAULT_ALLOW_PATTERNS if "safetensors" not in p)


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
    quantized_here: bool  # by quantize_for_rollouts, not by its maker
    adapter: Adapter | None  # None with train_type full
    config: dict[str, Any]  # the model's config.json
    vocab_size: int
    split: SplitModel
    can_share_prefix: bool  # it can, and prefix_sharing is on
    initial: Params | None  # the first weights; train_type full with kl_coeff > 0
    can_mix_lengths: bool = True  # prompts of several lengths in one batch of decoding

    @property
    def parameter_count(self) -> int:
        """Numbers in the model's arrays; those of a quantised weight are packed into fewer."""
        arrays: dict[str, mx.array] = dict(tree_flatten(self.model.parameters()))
        return sum(array.size for array in arrays.values())

    def trainable(self) -> Params:
        """What is trained, by flat name, in the model's own dtype."""
        return dict(tree_flatten(self.model.trainable_parameters()))

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
        cast = [(name, value.astype(held[name].dtype)) for name, value in params.items()]
        self.model.update(tree_unflatten(cast))

    @contextlib.contextmanager
    def reference(self) -> Iterator[None]:
        """Within it the model is what it was before training: bit for bit the base.

        Adapters are taken out, not scaled to zero; with train_type full the first weights are put
        in. Raises ModelError if those were not kept.
        """
        if self.train_type == "full":
            if self.initial is None:
                raise ModelError("no reference: the first weights are kept only with kl_coeff > 0")
            current = self.trainable()
            self.set_trainable(self.initial)
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


# --- loading


def load_policy(cfg: MLXGRPOConfig) -> Policy:
    """The model to train, as configured. Raises ModelError with what is wrong and what to try."""
    gated_delta.install()
    path = _base_folder(cfg.model_name, cfg.model_revision)
    model, config = _load_base(path, cfg)
    bits = _bits(config)
    _refuse_quantized_full(cfg, bits)
    wants_bits = cfg.quantize_for_rollouts and cfg.train_type != "full" and not bits
    _complete(model)
    embeddings = quantize_base(model, GROUP_SIZE, BASE_BITS) if wants_bits else {}
    _load_weights(model)
    model.eval()
    split = SplitModel(model)
    found = examine(split, cfg, partial(_put_back, model, embeddings))
    embeddings.clear()
    model.freeze()  # after quantising, which makes new layers
    adapter = None
    if cfg.train_type == "full":
        model.unfreeze()
    elif cfg.adapter_path:
        adapter = start_from(model, Path(cfg.adapter_path), cfg)
    else:
        adapter = add_adapters(model, cfg)
    model.eval()
    base = _Base(path, config, BASE_BITS if wants_bits else bits, wants_bits)
    return _policy(cfg, base, split, found, adapter)


def _complete(model: nn.Module) -> None:
    """Some models (recurrent_gemma) do not call the constructor of their class; this does."""
    if not hasattr(model, "_no_grad"):
        nn.Module.__init__(model)


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


def _policy(
    cfg: MLXGRPOConfig, base: _Base, split: SplitModel, found: Findings, adapter: Adapter | None
) -> Policy:
    if not tree_flatten(split.model.trainable_parameters()):
        raise ModelError(
            f"{cfg.model_name}: nothing to train; lora_keys = {cfg.lora_keys} names no layer"
        )
    mx.eval(split.model.parameters())
    must_learn(split.model, cfg)
    tokenizer = _load_tokenizer(base.path, base.config, cfg)
    _ = split.head_names
    keeps_initial = cfg.train_type == "full" and cfg.kl_coeff > 0
    policy = Policy(
        model=split.model,
        tokenizer=tokenizer,
        eos_ids=frozenset(int(i) for i in tokenizer.eos_token_ids),
        train_type=cfg.train_type,
        base=cfg.model_name,
        base_path=base.path,
        base_bits=base.bits,
        quantized_here=base.quantized_here,
        adapter=adapter,
        config=base.config,
        vocab_size=found.vocab_size,
        split=split,
        can_share_prefix=found.can.share_prefix,
        can_mix_lengths=found.can.mix_lengths,
        initial=None,
    )
    if keeps_initial:
        policy.initial = policy.trainable()
    return policy


def _load_weights(model: nn.Module) -> None:
    """Evaluates block by block, so that no two blocks are in memory before they are quantised."""
    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())


def _base_folder(name: str, revision: str, weights: bool = True) -> Path:
    """The local folder of a model: built in, on disk, or fetched from the hub.

    Without `weights` the hub is asked for the small files only.
    """
    if name == tiny.MODEL_NAME:
        return tiny.model_path()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model_name = {name!r}: no such folder")
    return _from_hub(name, revision, weights)


def _from_hub(name: str, revision: str, weights: bool) -> Path:
    """The folder of a hub model in the local cache, fetched if need be."""
    from huggingface_hub import snapshot_download

    files = DEFAULT_ALLOW_PATTERNS if weights else COMPANION_FILES
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=list(files))
    except (OSError, ValueError) as error:
        # huggingface_hub's own errors are all of these two kinds.
        raise ModelError(
            f"model_name = {name!r}: no such folder, and not to be had from the hub: "
            + _first_line(error)
        ) from error
    return Path(folder)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


def _load_base(path: Path, cfg: MLXGRPOConfig) -> tuple[nn.Module, dict[str, Any]]:
    _must_be_model(path)
    try:
        model, config = load_model(path, lazy=True, trust_remote_code=cfg.trust_remote_code)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path / 'config.json'}: line {error.lineno}: {error.msg}") from error
    except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # What mlx-lm raises on missing weights, unknown types, missing config keys, torn files.
        raise ModelError(f"{path}: mlx-lm cannot load it: {_explain(error)}") from error
    return model, config


def _explain(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it brings its own Python code; if you trust it, set trust_remote_code=true"
    if isinstance(error, KeyError):
        return f"its config.json has no {error}"
    return _first_line(error)


def load_tokenizer_of(cfg: MLXGRPOConfig) -> Any:
    """The model's tokenizer alone, so that data can be read before the device is touched.

    Raises ModelError.
    """
    path = _base_folder(cfg.model_name, cfg.model_revision, weights=False)
    _must_be_model(path)
    try:
        config = load_config(path)
    except json.JSONDecodeError as error:
        raise ModelError(f"{path / 'config.json'}: line {error.lineno}: {error.msg}") from error
    return _load_tokenizer(path, config, cfg)


def _must_be_model(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json; is this a model folder?")


def _load_tokenizer(path: Path, config: dict[str, Any], cfg: MLXGRPOConfig) -> Any:
    options = {"trust_remote_code": True} if cfg.trust_remote_code else None
    try:
        tokenizer = load_tokenizer(path, options, _as_list(config.get("eos_token_id")))
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        # The last is how transformers finds fault with a config.json.
        raise ModelError(f"{path}: its tokenizer cannot be loaded: {_explain(error)}") from error
    # transformers makes an empty tokenizer where the files are missing, and says nothing.
    if not tokenizer.encode("1 + 2", add_special_tokens=False):
        raise ModelError(f"{path}: its tokenizer knows no text; is tokenizer.json there?")
    return tokenizer


def _as_list(value: Any) -> list[int] | None:
    return value if value is None or isinstance(value, list) else [value]


def _bits(config: dict[str, Any]) -> int:
    """The bits of a model that its maker quantised; 0 for the others."""
    quantization = config.get("quantization") or config.get("quantization_config") or {}
    return int(quantization.get("bits", BASE_BITS)) if quantization else 0


def _refuse_quantized_full(cfg: MLXGRPOConfig, bits: int) -> None:
    if cfg.train_type == "full" and bits:
        raise ModelError(
            f"{cfg.model_name} is quantised to {bits} bits, and quantised weights cannot be "
            "trained in full; set train_type=lora, or name the model without quantisation "
            "(`mlx_lm.convert --dequantize` makes one)"
        )


def quantize_base(model: nn.Module, group_size: int, bits: int) -> dict[str, nn.Module]:
    """Quantises the layers whose width divides by `group_size` and leaves the others.

    Returns the embeddings among them as they were, by name.
    """

    def fits(_: str, module: nn.Module) -> bool:
        to_quantized = getattr(module, "to_quantized", None)
        # Models' own layers may not know of the modes that `nn.quantize` speaks of.
        knows_mode = to_quantized and "mode" in signature(to_quantized).parameters
        return bool(knows_mode) and module.weight.shape[-1] % group_size == 0

    modules = list(model.named_modules())
    embeddings = {n: m for n, m in modules if isinstance(m, nn.Embedding) and fits(n, m)}
    nn.quantize(model, group_size, bits, class_predicate=fits)
    return embeddings


# --- saving


def _adapter_config(policy: Policy, adapter: Adapter, cfg: MLXGRPOConfig) -> dict[str, Any]:
    """adapter_config.json as mlx-lm wants it, plus the base these adapters were trained on."""
    return {
        "fine_tune_type": policy.train_type,
        "num_layers": adapter.layers,
        "lora_parameters": adapter.parameters,
        "model": str(policy.base_path) if policy.base == tiny.MODEL_NAME else policy.base,
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


def read_model_config(cfg: MLXGRPOConfig) -> dict[str, Any]:
    """config.json of the model, without its weights, for estimates. Raises ModelError."""
    path = _base_folder(cfg.model_name, cfg.model_revision, weights=False)
    _must_be_model(path)
    return dict(load_config(path))
