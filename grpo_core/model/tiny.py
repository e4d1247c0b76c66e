"""The embedded model `builtin/tiny`: a Qwen2 of 0.1 M parameters for the demo and the tests.

It ships in `tiny_model/` and loads with `mlx_lm.load`; `tiny_build.py` has made it.
"""

from pathlib import Path

MODEL_NAME = "builtin/tiny"


def model_path() -> Path:
    """The folder of the shipped model; `mlx_lm.load` reads it."""
    return Path(__file__).parent / "tiny_model"
