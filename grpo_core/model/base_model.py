"""The base model and its tokenizer: found in a folder or on the hub, loaded, quantised.

Loading goes through mlx-lm. Nothing is unpickled, and a model's own code runs only with
`trust_remote_code`. What is trained on top of the base is in `policy.py`.
"""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from huggingface_hub import snapshot_download
from huggingface_hub.errors import StrictDataclassError
from mlx_lm.utils import DEFAULT_ALLOW_PATTERNS, load_config, load_model, load_tokenizer

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.config.values import did_you_mean, named_path
from grpo_core.errors import ModelError, first_line, message_of
from grpo_core.model import smollm2, tiny
from grpo_core.model.precision import made_quantized
from grpo_core.run.atomic import read_json
from grpo_core.run.incomplete import incomplete

BUILTINS = {tiny.MODEL_NAME: tiny.model_path, smollm2.MODEL_NAME: smollm2.model_path}
"""Models that are named `builtin/...`, and what gives their folder."""

# mlx-lm's defaults for `convert -q`.
BASE_BITS = 4
GROUP_SIZE = 64

# Tokenizer, chat template, generation defaults, own code: what mlx-lm reads beside the weights.
COMPANION_FILES = tuple(p for p in DEFAULT_ALLOW_PATTERNS if "safetensors" not in p)


# --- where it is


def base_folder(name: str, revision: str, weights: bool = True) -> Path:
    """The local folder of a model: built in, on disk, or fetched from the hub.

    Without `weights` the hub is asked for the small files only.
    """
    if name in BUILTINS:
        return BUILTINS[name]()
    if name.startswith("builtin/"):
        raise ModelError(
            f"model_name = {name!r}: no such built-in; there are {' and '.join(BUILTINS)}"
            + did_you_mean(name, BUILTINS)
        )
    path = named_path(name)
    if path.is_dir():
        return path
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise ModelError(f"model_name = {name!r}: no such folder")
    return _from_hub(name, revision, weights)


def _from_hub(name: str, revision: str, weights: bool) -> Path:
    """The folder of a hub model in the local cache, fetched if need be."""
    files = DEFAULT_ALLOW_PATTERNS if weights else COMPANION_FILES
    try:
        folder = snapshot_download(name, revision=revision or None, allow_patterns=list(files))
    except (OSError, ValueError) as error:
        # huggingface_hub's own errors are all of these two kinds.
        raise ModelError(
            f"model_name = {name!r}: no such folder, and not to be had from the hub: "
            + message_of(error)
        ) from error
    return Path(folder)


def read_model_config(cfg: MLXGRPOConfig) -> dict[str, Any]:
    """config.json of the model, without its weights, for estimates. Raises ModelError."""
    return _read_config(base_folder(cfg.model_name, cfg.model_revision, weights=False))


def _read_config(path: Path) -> dict[str, Any]:
    _must_be_model(path)
    try:
        return dict(load_config(path))
    except json.JSONDecodeError as error:
        raise _torn_config(path, error) from error


def _must_be_model(path: Path) -> None:
    if not (path / "config.json").is_file():
        raise ModelError(f"{path}: no config.json; is this a model folder?")
    for file in sorted(file for p in DEFAULT_ALLOW_PATTERNS for file in path.glob(p)):
        if file.is_file() and (fault := incomplete(file)):
            raise ModelError(f"{file} {fault}")


def _must_have_weights(path: Path) -> None:
    """ModelError where files are not there that the index of the weights names."""
    index = read_json(path / "model.safetensors.index.json") or {}
    named = {str(name) for name in index.get("weight_map", {}).values()}
    missing = sorted(name for name in named if not (path / name).is_file())
    if missing:
        raise ModelError(
            f"{path}: {len(missing)} of {len(named)} files of weights are not there, such as "
            f"{missing[0]}; download the model again"
        )


def _torn_config(path: Path, error: json.JSONDecodeError) -> ModelError:
    return ModelError(f"{path / 'config.json'}: line {error.lineno}: {error.msg}")


# --- the model


def load_base(path: Path, cfg: MLXGRPOConfig) -> tuple[nn.Module, dict[str, Any]]:
    """The model in that folder, its weights not evaluated, and its config.json; ModelError."""
    _must_be_model(path)
    _must_have_weights(path)
    try:
        model, config = load_model(path, lazy=True, trust_remote_code=cfg.trust_remote_code)
    except json.JSONDecodeError as error:
        raise _torn_config(path, error) from error
    except (FileNotFoundError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # What mlx-lm raises on missing weights, unknown types, missing config keys, torn files.
        raise ModelError(f"{path}: mlx-lm cannot load it: {_explain(error)}") from error
    call_constructor(model)
    return model, config


def _explain(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it brings its own Python code; if you trust it, set trust_remote_code=true"
    if isinstance(error, KeyError):
        return f"its config.json has no {error}"
    return first_line(error)


def call_constructor(model: nn.Module) -> None:
    """Some models (recurrent_gemma) do not call the constructor of their class; this does."""
    if not hasattr(model, "_no_grad"):
        nn.Module.__init__(model)


def load_weights(model: nn.Module) -> None:
    """Evaluates block by block, so that no two blocks are in memory before they are quantised."""
    for layer in model.layers:
        mx.eval(layer.parameters())
    mx.eval(model.parameters())


def bits_of(config: dict[str, Any]) -> int:
    """The bits of a model that its maker quantised; 0 for the others."""
    quantization = made_quantized(config)
    return int(quantization.get("bits", BASE_BITS)) if quantization else 0


def quantize_base(model: nn.Module, group_size: int, bits: int) -> dict[str, nn.Module]:
    """Quantises the layers whose width divides by `group_size` and leaves the others.

    Returns the embeddings among them as they were, by name.
    """

    def fits(_: str, module: nn.Module) -> bool:
        to_quantized = getattr(module, "to_quantized", None)
        # Models' own layers may lack the modes that `nn.quantize` names.
        knows_mode = to_quantized and "mode" in signature(to_quantized).parameters
        return bool(knows_mode) and module.weight.shape[-1] % group_size == 0

    modules = list(model.named_modules())
    embeddings = {n: m for n, m in modules if isinstance(m, nn.Embedding) and fits(n, m)}
    nn.quantize(model, group_size, bits, class_predicate=fits)
    return embeddings


# --- the tokenizer


def load_tokenizer_of(cfg: MLXGRPOConfig) -> Any:
    """The model's tokenizer alone, so that data can be read before the device is touched.

    Raises ModelError.
    """
    path = base_folder(cfg.model_name, cfg.model_revision, weights=False)
    return read_tokenizer(path, _read_config(path), cfg)


def read_tokenizer(path: Path, config: dict[str, Any], cfg: MLXGRPOConfig) -> Any:
    """The tokenizer in a model's folder, as mlx-lm wraps it; ModelError."""
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
