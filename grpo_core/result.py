"""The result of a run, used: the base beside the trained model, and both as one folder.

    python -m grpo_core.result ask RUN [--max-tokens N]      prompts on stdin, a JSON object a line
    python -m grpo_core.result fuse RUN FOLDER [--dequantize]

Asks as the run was trained: its template, system prompt and beginning of answers. mlx-lm loads,
generates and fuses; a base that was quantised for the training is loaded as it came, so that
answers may differ a little (docs/results.md).
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx_lm
from mlx.utils import tree_unflatten
from mlx_lm.utils import dequantize_model, save

from grpo_core.config import FIELDS, MLXGRPOConfig, update_config_from_dict
from grpo_core.data.examples import Example
from grpo_core.data.prompts import Prompt, make_prompts
from grpo_core.errors import GRPOError, ModelError
from grpo_core.model.base_model import base_folder
from grpo_core.model.device import use_device
from grpo_core.run.protocol import CONFIG_FILE, FINAL_FOLDER, checkpoints


def trained_config(run: Path) -> MLXGRPOConfig:
    """The configuration that a run recorded; ModelError where there is none."""
    try:
        values = json.loads((run / CONFIG_FILE).read_bytes())
        known = {name: value for name, value in values.items() if name in FIELDS}
    except (OSError, ValueError, AttributeError) as e:
        raise ModelError(f"{run}: no run has recorded its configuration here: {e}") from None
    return update_config_from_dict(MLXGRPOConfig(), known)


def trained_folder(run: Path) -> Path:
    """What the run was trained to: `final/`, else the newest checkpoint; ModelError."""
    if (run / FINAL_FOLDER).is_dir():
        return run / FINAL_FOLDER
    found = checkpoints(run) if run.is_dir() else []
    if not found:
        raise ModelError(f"{run}: neither final/ nor a checkpoint is here")
    return found[0][1]


def _is_whole(cfg: MLXGRPOConfig) -> bool:
    return cfg.train_type == "full"


# --- ask


def answers(run: Path, prompts: list[str], max_tokens: int | None) -> Iterator[dict[str, str]]:
    """For each prompt what the base and what the trained model writes, sampled greedily."""
    cfg = trained_config(run)
    trained, base = trained_folder(run), base_folder(cfg.model_name, cfg.model_revision)
    limit = max_tokens or cfg.completion_limit
    # One after the other: two models at once need twice the memory.
    before = _texts(str(base), None, prompts, cfg, limit)
    whole = _is_whole(cfg)
    model, adapters = (trained, None) if whole else (base, str(trained))
    after = _texts(str(model), adapters, prompts, cfg, limit)
    for prompt, one, other in zip(prompts, before, after, strict=True):
        yield {"prompt": prompt, "base": one, "trained": other}


def _texts(
    model_path: str, adapters: str | None, prompts: list[str], cfg: MLXGRPOConfig, limit: int
) -> list[str]:
    model, tokenizer = mlx_lm.load(model_path, adapter_path=adapters)[:2]
    return [
        prompt.opening
        + mlx_lm.generate(model, tokenizer, prompt=list(prompt.ids), max_tokens=limit)
        for prompt in _as_trained(prompts, cfg, tokenizer)
    ]


def _as_trained(prompts: list[str], cfg: MLXGRPOConfig, tokenizer: Any) -> list[Prompt]:
    rows = [
        Example(number, text, "", {cfg.prompt_key: text}, f"prompt {number}")
        for number, text in enumerate(prompts, start=1)
    ]
    return make_prompts(rows, cfg, tokenizer)


# --- fuse


def fuse(run: Path, folder: Path, dequantize: bool) -> None:
    """The base with the adapters of a run in it, as a model of its own; ModelError."""
    cfg = trained_config(run)
    trained = trained_folder(run)
    if _is_whole(cfg):
        raise ModelError(f"{trained}: is a whole model already; copy it")
    if folder.exists():
        raise ModelError(f"{folder}: is there already; name another folder")
    base = base_folder(cfg.model_name, cfg.model_revision)
    model, tokenizer, config = mlx_lm.load(str(base), adapter_path=str(trained), return_config=True)
    fused = [
        (name, module.fuse(dequantize=dequantize))
        for name, module in model.named_modules()
        if hasattr(module, "fuse")
    ]
    model.update_modules(tree_unflatten(fused))
    if dequantize:
        model = dequantize_model(model)
        config.pop("quantization", None)
        config.pop("quantization_config", None)
    save(folder, str(base), model, tokenizer, config, donate_model=False)


def main() -> int:
    """The exit code; one line for each answer, or nothing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    ask = commands.add_parser("ask")
    ask.add_argument("run", type=Path)
    ask.add_argument("--max-tokens", type=int)
    fusing = commands.add_parser("fuse")
    fusing.add_argument("run", type=Path)
    fusing.add_argument("folder", type=Path)
    fusing.add_argument("--dequantize", action="store_true")
    given = parser.parse_args()
    try:
        use_device(lambda line: print(line, file=sys.stderr))
        if given.command == "fuse":
            fuse(given.run, given.folder, given.dequantize)
        else:
            prompts = [json.loads(line) for line in sys.stdin if line.strip()]
            for found in answers(given.run, prompts, given.max_tokens):
                print(json.dumps(found), flush=True)
    except GRPOError as e:
        print(f"error: {e}", file=sys.stderr)
        return e.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
