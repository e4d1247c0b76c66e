"""A whole run on a model that cannot share its prompts: it trains all the same, and says so."""

import json
import shutil

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model

from grpo_core.model import tiny
from tests.trainer_kit import complete, log_of, result_of

WINDOW = 24


def windowed_folder(folder):
    """A llama whose second layer sees a window only, with the tiny model's tokenizer."""
    shutil.copytree(tiny.model_path(), folder)
    (folder / "model.safetensors").unlink()
    config = json.loads((folder / "config.json").read_text()) | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "layer_types": ["full_attention", "sliding_attention"],
        "sliding_window": WINDOW,
    }
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = load_model(folder, strict=False)
    draw = np.random.default_rng(0)
    weights = {
        name: mx.array(draw.normal(0, 0.1, value.shape) + (value.ndim < 2), mx.float32)
        for name, value in tree_flatten(model.parameters())
    }
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder


def test_a_model_with_a_sliding_window_trains_and_a_line_says_how(tmp_path):
    """Prompts here are longer than the window, so a shared prompt would be wrong."""
    model = windowed_folder(tmp_path / "model")
    done = complete(tmp_path / "out", model_name=str(model), entropy_coef=0.1, zero_variance="keep")
    assert "prompts are not shared" in done.stderr
    assert result_of(tmp_path / "out")["status"] == "completed"
    updates = [line for line in log_of(tmp_path / "out") if "loss" in line]
    assert updates
    assert all(line["grad_norm"] > 0 for line in updates)  # by the entropy bonus at least
