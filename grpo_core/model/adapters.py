"""LoRA and DoRA layers in an mlx-lm model: new ones, those of a folder, and how to take them out.

mlx-lm puts them in; here they get starts and dropout masks that are functions of the seed. Papers:
LoRA 2106.09685, DoRA 2402.09353. `policy.py` loads the model that they are put into.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.utils import linear_to_lora_layers, load_adapters

from grpo_core.config.fields import MLXGRPOConfig
from grpo_core.config.values import did_you_mean
from grpo_core.errors import ModelError
from grpo_core.model.random_keys import derive_key
from grpo_core.model.trunk_head import Params

LINEAR = (nn.Linear, nn.QuantizedLinear)
EXPERTS = (SwitchLinear, QuantizedSwitchLinear)
ADAPTABLE = (*LINEAR, *EXPERTS, nn.Embedding, nn.QuantizedEmbedding)
"""What mlx-lm puts adapters around, beside layers with a `to_lora` of their own."""

ADAPTER_WEIGHTS = "adapters.safetensors"
ADAPTER_CONFIG = "adapter_config.json"


class KeyedDropout(nn.Module):  # type: ignore[misc]
    """Dropout whose mask depends on a key that the caller sets, so that a second pass repeats it.

    `nn.Dropout` draws from MLX's global state, which neither resume nor recomputation survives.
    """

    def __init__(self, p: float, name: str) -> None:
        super().__init__()
        self._keep = 1 - p
        self._name = name
        self._key: tuple[int, int] | None = None

    def set_key(self, *numbers: int) -> None:
        """The draw to come, by the numbers of its update and group."""
        self._key = derive_key(f"dropout:{self._name}", *numbers)

    def __call__(self, x: mx.array) -> mx.array:
        """Zeroes a share of `x` and scales the rest; `x` itself outside of training."""
        if not self.training or self._key is None:
            return x
        key = mx.array(self._key, mx.uint32)
        return x * mx.random.bernoulli(self._keep, x.shape, key=key) / self._keep


@dataclass(frozen=True, slots=True)
class Adapter:
    """The shape of adapters, as mlx-lm describes it."""

    layers: int  # blocks, from the last; -1: all
    parameters: dict[str, Any]  # rank, scale, dropout, perhaps keys


def _lora_parameters(model: nn.Module, cfg: MLXGRPOConfig) -> dict[str, Any]:
    """mlx-lm's `lora_parameters`; without `keys` it takes every linear layer of a block.

    What chooses experts stays as it is unless it is named: with other experts the log-probs jump.
    """
    parameters: dict[str, Any] = {
        "rank": cfg.lora_rank,
        "scale": cfg.lora_scale,
        "dropout": cfg.lora_dropout,
    }
    if cfg.lora_keys:
        _must_be_there(model, cfg.lora_keys)
        parameters["keys"] = list(cfg.lora_keys)
    elif routers := _routers(model):
        parameters["keys"] = [key for key in _block_keys(model) if key not in routers]
    return parameters


def _block_keys(model: nn.Module) -> list[str]:
    """The layers within the model's blocks that can have adapters, as `lora_keys` names them."""
    found = (
        name
        for block in model.layers
        for name, module in block.named_modules()
        if hasattr(module, "to_lora") or isinstance(module, ADAPTABLE)
    )
    return sorted(set(found))


def _routers(model: nn.Module) -> set[str]:
    """Linear layers beside experts that have as many outputs as there are experts."""
    found = set()
    for block in model.layers:
        modules = dict(block.named_modules())
        experts = {n: m.weight.shape[0] for n, m in modules.items() if isinstance(m, EXPERTS)}
        for name, module in modules.items():
            beside = f"{name.rpartition('.')[0]}."
            counts = {count for key, count in experts.items() if key.startswith(beside)}
            if isinstance(module, LINEAR) and module.weight.shape[0] in counts:
                found.add(name)
    return found


def _must_be_there(model: nn.Module, keys: Sequence[str]) -> None:
    """ModelError with what there is for each key that names no layer."""
    there = _block_keys(model)
    outside = {name for name, module in model.named_modules() if isinstance(module, ADAPTABLE)}
    unknown = [key for key in keys if key not in there and key not in outside]
    if unknown:
        raise ModelError(
            f"lora_keys: {', '.join(map(repr, unknown))}: no such layer in the model's blocks; "
            f"there are {', '.join(there)}{_hint(unknown[0], there)}"
        )


def _hint(key: str, there: Sequence[str]) -> str:
    """What was meant: PEFT names layers by their last part, and all of them by `all-linear`."""
    if key == "all-linear":
        return "; leave lora_keys empty for every linear layer"
    ends = [name for name in there if name.endswith(f".{key}")]
    return f"; did you mean {' and '.join(ends)}?" if ends else did_you_mean(key, there)


def add_adapters(model: nn.Module, cfg: MLXGRPOConfig) -> Adapter:
    """New adapters, drawn by keys from the seed: the same whatever ran before. In place."""
    adapter = Adapter(cfg.lora_layers, _lora_parameters(model, cfg))
    _convert(model, adapter, cfg.train_type)
    for name, module in adapter_modules(model):
        module.lora_a = _first_lora_a(module.lora_a, name, cfg.seed)
    _make_keyed(model, cfg.lora_dropout)
    return adapter


def _convert(model: nn.Module, adapter: Adapter, kind: str) -> None:
    try:
        linear_to_lora_layers(model, adapter.layers, adapter.parameters, use_dora=kind == "dora")
    except ValueError as error:
        raise ModelError(f"train_type = {kind!r}: {error}") from error


def _first_lora_a(like: Any, name: str, seed: int) -> Any:
    """mlx-lm's start, uniform in +-1 / sqrt(fan in), from a key of its own. fp32."""
    if isinstance(like, list):  # a layer of several outputs
        return [_first_lora_a(one, f"{name}.{i}", seed) for i, one in enumerate(like)]
    fan_in = like.shape[-1] if like.ndim == 3 else like.shape[0]  # experts: [E, r, in]
    bound = 1 / math.sqrt(fan_in)
    number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    key = mx.array(derive_key("adapter", seed, number), mx.uint32)
    return mx.random.uniform(-bound, bound, like.shape, mx.float32, key=key)


def _make_keyed(model: nn.Module, dropout: float) -> None:
    for name, module in adapter_modules(model):
        module.dropout = KeyedDropout(dropout, name)


def adapter_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every LoRA or DoRA layer, by name, in a fixed order."""
    found = [(n, m) for n, m in model.named_modules() if "lora_a" in m and wrapped(m) is not None]
    return sorted(found, key=lambda item: item[0])


def wrapped(module: nn.Module) -> nn.Module | None:
    """The layer that an adapter wraps."""
    return module.get("linear") or module.get("embedding")


def replace_modules(model: nn.Module, modules: dict[str, Any]) -> None:
    """Puts modules in by name: adapters, or what they wrap."""
    model.update_modules(tree_unflatten(list(modules.items())))


def start_from(model: nn.Module, folder: Path, cfg: MLXGRPOConfig) -> Adapter:
    """Adapters that mlx-lm (or we) made. Raises ModelError unless they are of `train_type`."""
    file = folder / ADAPTER_CONFIG
    if not file.is_file() or not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(
            f"adapter_path = {str(folder)!r}: {ADAPTER_CONFIG} and {ADAPTER_WEIGHTS} must be there"
        )
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        kind = made.get("fine_tune_type", "lora")
        parameters = made["lora_parameters"]
    except (ValueError, KeyError, AttributeError) as error:
        raise ModelError(f"{file}: not an adapter config of mlx-lm: {error!r}") from error
    if kind != cfg.train_type:
        raise ModelError(f"adapter_path = {str(folder)!r} is {kind}; set train_type={kind}")
    try:
        load_adapters(model, str(folder))
    except (ValueError, KeyError, AttributeError, RuntimeError) as error:
        raise ModelError(f"{folder}: the adapters do not fit {cfg.model_name}: {error}") from error
    trainable: Params = dict(tree_flatten(model.trainable_parameters()))
    in_fp32 = [(name, weight.astype(mx.float32)) for name, weight in trainable.items()]
    model.update(tree_unflatten(in_fp32))
    _make_keyed(model, float(parameters.get("dropout", 0.0)))
    return Adapter(int(made.get("num_layers", -1)), dict(parameters))
