"""In which numbers a model is held: the `dtype` of its weights, and whether its base is quantised.

On MLX's CPU backend products in 16 bits are 40 times and those of 4-bit weights 100 times slower
than in fp32, so `dtype = "auto"` takes fp32 there and quantises nothing.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from grpo_core.config.fields import MLXGRPOConfig

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


@dataclass(frozen=True, slots=True)
class Precision:
    """`name` is that of the weights' type, a key of DTYPES; `note` a line for the user, or "".

    Without `casts` the weights stay as their files have them, which config.json need not know.
    """

    name: str
    quantize: bool
    casts: bool = True
    note: str = ""

    @property
    def dtype(self) -> mx.Dtype:
        """The type as MLX knows it."""
        return DTYPES[self.name]


def precision(config: Mapping[str, Any], cfg: MLXGRPOConfig) -> Precision:
    """What a run takes for the model of that config.json.

    `quantize`: by us; never what its maker has quantised, nor what is trained in full.
    """
    stored = _stored(config)
    made = made_quantized(config)
    wanted = cfg.quantize_for_rollouts and cfg.train_type != "full" and not made
    if cfg.dtype != "auto":
        return Precision(cfg.dtype, wanted)
    if mx.default_device().type != mx.DeviceType.cpu:
        return Precision(stored, wanted, casts=False)
    if stored == "float32" and not wanted:
        return Precision(stored, False)
    if made:
        note = (
            "[model] its maker quantised it, and the CPU multiplies such weights some 100 times "
            "slower than float32: take the model without quantisation there"
        )
        return Precision("float32", quantize=False, note=note)
    return Precision(
        "float32",
        quantize=False,
        note="[model] on the CPU the weights are held in float32 and not quantised, which is 40 "
        f"to 100 times faster (dtype = auto; dtype = {stored} does as the configuration says)",
    )


def made_quantized(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """How the model's maker quantised it, by its config.json; empty where nobody did."""
    return config.get("quantization") or config.get("quantization_config") or {}


def cast(model: nn.Module, dtype: mx.Dtype) -> None:
    """Holds the model's weights in `dtype`, but for those that its family keeps as they are."""
    casts: Callable[[str], bool] = getattr(model, "cast_predicate", lambda path: True)
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    floats = [
        (path, array.astype(dtype))
        for path, array in arrays.items()
        if casts(path) and mx.issubdtype(array.dtype, mx.floating)
    ]
    model.update(tree_unflatten(floats))


def _stored(config: Mapping[str, Any]) -> str:
    whole = {**config, **(config.get("text_config") or {})}
    name = str(whole.get("torch_dtype") or whole.get("dtype") or "bfloat16")
    return name if name in DTYPES else "bfloat16"
