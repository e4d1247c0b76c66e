"""`GRPO_DEVICE`: on which device a user wants to train; mlx is not needed to read it.

So that a mistyped word is reported at once. `model/device.py` carries it out.
"""

import os
from collections.abc import Mapping

from grpo_core.errors import ConfigError

ENV_DEVICE = "GRPO_DEVICE"
CPU, GPU = "cpu", "gpu"


def wanted_device(environ: Mapping[str, str] = os.environ) -> str:
    """`cpu`, `gpu`, or empty for what MLX takes by itself; ConfigError for another word."""
    word = environ.get(ENV_DEVICE, "")
    if word not in ("", CPU, GPU):
        raise ConfigError(f"{ENV_DEVICE} = {word!r}: must be {CPU} or {GPU}, or not set")
    return word
