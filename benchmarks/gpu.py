"""The trainer on a GPU in five minutes: seconds, tokens/s, peak, exactness, beside mlx-lm-lora.

    python benchmarks/gpu.py [--shape 0.5b] [--peer-python PYTHON] [--minutes 5] [--json FILE]

One prepared script for a machine that is lent for a quarter of an hour. The model is random, with
Qwen2.5-0.5B's sizes; adapters are trained, as most people do, 8 completions of 256 tokens a prompt.
In this order, and as far as the minutes go: what the device is; ours as a user starts it; the peer
on the same work (PYTHON must have mlx-lm-lora); decoding over 8 to 256 rows beside mlx-lm's own
batches; whether a run that was stopped and goes on ends with the same weights, bit by bit, and
whether it does so twice. FILE has what was measured after each part, whatever happens later; a part
that fails is told, and the next one begins. `--shape small` tries the script where there is no GPU.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if Path(sys.path[0]) == HERE:
    # Run as a script: this folder's queue.py would stand in for the standard library's.
    sys.path[0] = str(HERE.parent)

from benchmarks._trainer import ours, peer_venv  # noqa: E402
from benchmarks._trainer.child import Child, environment, module  # noqa: E402
from benchmarks._trainer.tables import markdown  # noqa: E402
from benchmarks._trainer.work import GPU_SETTING, Setting  # noqa: E402

SMALL = Setting(8, 64)
WARM, MEASURED = 2, 3
ROWS = ("8", "16", "32", "64", "128", "256")
DECODE_TOKENS = "128"
GB = 1e9

Part = Callable[[], Any]


class Lease:
    """What there is to measure, and the folder to do it in."""

    def __init__(self, folder: Path, shape: str, peer: Path | None) -> None:
        self.folder = folder
        self.setting = replace(GPU_SETTING if shape == "0.5b" else SMALL, shape=shape)
        self._peer = peer

    def parts(self) -> dict[str, Part]:
        """In the order of their worth."""
        with_peer: dict[str, Part] = {"peer": self.peer} if self._peer else {}
        return {
            "device": self.device,
            "ours": self.ours,
            **with_peer,
            "decode": self.decode,
            "exact": self.exact,
            "many prompts": self.many_prompts,
        }

    def device(self) -> Any:
        """What computes; the model is made here too."""
        [made] = module("work", self.folder, self.folder, "--shape", self.setting.shape).lines()
        argv = [sys.executable, "-m", "grpo_core.model.device"]
        return made | next(Child(argv, environment(self.folder)).end().lines())

    def ours(self) -> Any:
        """Medians of some updates, and what `--dry-run` foretells of the peak."""
        run = ours.train(self.folder, self.setting, WARM + MEASURED)
        found = ours.summary([run], WARM)
        return found | {
            "first_rollout_s": run.first_rollout_s,
            "estimate_bytes": ours.estimate_bytes(self.folder, self.setting),
        }

    def many_prompts(self) -> Any:
        """An update of eight prompts, which decode together."""
        setting = replace(self.setting, prompts=8)
        return ours.summary([ours.train(self.folder, setting, 3)], 1)

    def peer(self) -> Any:
        """Its steps on the same work, the first ones left out."""
        peer = peer_venv.Peer("mlx-lm-lora", self._peer or Path())
        found = peer.train(environment(self.folder), self.folder, self.setting, WARM + MEASURED, 1)
        steps = found["steps"][WARM:]
        peak = max(step["mlx_peak_bytes"] for step in steps)
        return {**peer_venv.medians(steps), "mlx_peak_bytes": peak, "rss_bytes": found["rss_bytes"]}

    def decode(self) -> Any:
        """Tokens per second over the number of rows."""
        args = (self.folder, self.setting.shape, DECODE_TOKENS, *ROWS)
        return list(module("decode", self.folder, *args).lines())

    def exact(self) -> Any:
        """The weights of two whole runs, and of one that was stopped after three updates."""
        setting = replace(self.setting, tokens=64)
        whole = [self._weights(setting) for _ in range(2)]
        return {
            "twice": whole[0] == whole[1],
            "after a stop": self._weights(setting, stop_after=3) == whole[0],
        }

    def _weights(self, setting: Setting, stop_after: int = 0) -> str:
        """The SHA-256 of what six updates leave; a stopped run goes on until it is done."""
        output = self.folder / "exact" / str(time.time_ns())
        fields = setting.config(self.folder) | {
            "learning_rate": 1e-3,
            "max_train_samples": 6,
            "output_dir": str(output),
        }
        config = ours.write_config(self.folder, fields)
        if stop_after:
            ours.watch(config, output, self.folder, stop_after)
        ours.watch(config, output, self.folder)
        [weights] = (output / "final").glob("*.safetensors")
        return hashlib.sha256(weights.read_bytes()).hexdigest()


def show(found: dict[str, Any]) -> str:
    """The figures as tables."""
    lines = [f"{name}: {found[name]}" for name in ("device", "exact", "failed") if name in found]
    updates = [
        (name, *(f"{found[name][n]:.3g}" for n in ("total_s", "cpu_s")),
         f"{found[name]['mlx_peak_bytes'] / GB:.2f}")
        for name in ("ours", "peer", "many prompts") if name in found
    ]  # fmt: skip
    tables = [markdown(("", "update s", "CPU s", "MLX peak GB"), updates)] if updates else []
    if rows := found.get("decode"):
        heads = ("rows", "ours tokens/s", "mlx-lm tokens/s", "times as fast")
        keys = ("ours_tokens_per_s", "mlx_lm_tokens_per_s", "times_as_fast")
        cells = [(str(row["rows"]), *(f"{row[key]:.4g}" for key in keys)) for row in rows]
        tables.append(markdown(heads, cells))
    return "\n\n".join(["\n".join(lines), *tables])


def main() -> None:
    """Measure part after part until the minutes are over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=("0.5b", "small"), default="0.5b")
    parser.add_argument("--peer-python", type=Path, help="a Python that has mlx-lm-lora")
    parser.add_argument("--minutes", type=float, default=5.0, help="no part begins after them")
    parser.add_argument("--json", type=Path, help="write all figures here")
    args = parser.parse_args()
    began = time.monotonic()
    found: dict[str, Any] = {"failed": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, part in Lease(Path(folder), args.shape, args.peer_python).parts().items():
            if time.monotonic() - began > 60 * args.minutes:
                found["failed"][name] = "the minutes are over"
                continue
            # Whatever one part meets on a machine that nobody has seen, the others are measured.
            try:
                found[name] = part()
            except Exception as error:  # noqa: BLE001
                traceback.print_exc()
                found["failed"][name] = str(error)[-1500:]
            taken = time.monotonic() - began
            print(f"{name}: {taken:.0f} s, {found.get(name)}", file=sys.stderr, flush=True)
            if args.json:
                args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(show(found))


if __name__ == "__main__":
    main()
