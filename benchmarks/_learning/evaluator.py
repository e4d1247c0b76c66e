"""Scores adapters that a peer trained as our own runs are scored.

    python -m benchmarks._learning.evaluator FOLDER CONFIG [--set k=v]...

First it writes FOLDER/work.json, the training rows as token ids with their answers, and names the
rewards on a line. Then each line of stdin is a folder with adapters in mlx-lm's form, and gets a
line with their exact match on the held-out rows.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from grpo_core.blas.library import find
from grpo_core.blas.session import install
from grpo_core.config import resolve_config
from grpo_core.evaluate import evaluate
from grpo_core.model.policy import load_policy
from grpo_core.model.tiny import MODEL_NAME, model_path
from grpo_core.rewards.builtin import load_rewards
from grpo_core.trainer import prepare_data


def main():
    """Prepare, then score whatever is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    args = parser.parse_args()
    install(find())
    cfg = resolve_config(args.config, args.set, strict=True)
    data = prepare_data(cfg)
    work = {
        "model": str(model_path()) if cfg.model_name == MODEL_NAME else cfg.model_name,
        "rows": [[list(p.ids), p.text, p.example.answer] for p in data.train],
        "prompts": cfg.batch_size,
        "group": cfg.num_generations,
        "tokens": cfg.completion_limit,
        "temperature": cfg.temperature,
        "learning_rate": cfg.learning_rate,
        "rank": cfg.lora_rank,
        "scale": cfg.lora_scale,
        "clip_eps": cfg.clip_eps,
    }
    (args.folder / "work.json").write_text(json.dumps(work), encoding="utf-8")
    print(json.dumps({"rewards": cfg.rewards}), flush=True)
    with load_rewards(cfg) as rewards:
        for line in sys.stdin:
            policy = load_policy(replace(cfg, adapter_path=json.loads(line)))
            done = evaluate(policy, data.test, cfg, "test", rewards)
            print(json.dumps({"em": done.em}), flush=True)


if __name__ == "__main__":
    main()
