"""What one update of the trainer takes: seconds, memory, and how far that is from the floor.

    python benchmarks/trainer.py [--peer mlx-lm-lora[==VERSION]] [--peer trl[==VERSION]]
                                 [--peer-blas] [--model FOLDER] [--linearity] [--shares] [--profile]
                                 [--rounds 3] [--rows FILE.jsonl] [--json FILE] [--plot FILE.png]

Everything measured is a process of its own: our trainer as a user starts it, read from its log and
from outside; a peer's in a virtual environment of its own; a plain batched update to compare the
memory with. They take turns for some rounds, and what is told are medians of the rounds, of updates
behind the first ones, as MLX compiles kernels on the way. Beside the ratio of seconds stands that
of the processor's seconds, which other programs disturb less. The model is random and made anew;
its prompts are made-up word problems of 116 tokens, or the rows of a file (GSM8K's, say) nearest to
it. Every completion has its full length, every group a reward that differs, and all weights are
trained. `--model` adds a setting with a real model, whose adapters are trained. TRL runs with one
thread and with two, and the better counts. `--peer-blas` runs mlx-lm-lora a second time with the
BLAS that ours uses.

The floor is the time that the fewest floating-point operations of an update (counted in
`_trainer/flops.py`: one prompt's sampling, forward and backward pass, matrix products only) would
take at the rate of the fastest matrix product of the update's shapes, whatever its layout. That
rate is measured before, between and after rollout and update of each round, since it follows what
else the machine does. On the CPU backend, which computes on one core, both sides are in the
processor's seconds. A second figure, "own", takes the rate of just those products that the update
does.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
if Path(sys.path[0]) == HERE:
    # Run as a script: this folder's queue.py would stand in for the standard library's.
    sys.path[0] = str(HERE.parent)

from benchmarks._trainer import ours, peer_venv  # noqa: E402
from benchmarks._trainer.child import environment, module  # noqa: E402
from benchmarks._trainer.flops import fewest  # noqa: E402
from benchmarks._trainer.tables import plot, show  # noqa: E402
from benchmarks._trainer.work import (  # noqa: E402
    GIVEN,
    GIVEN_SETTING,
    GPU_SETTING,
    SETTINGS,
    SIX,
    model_config,
    prompt_tokens,
)

WARM, MEASURED = 2, 3
PEER_WARM, PEER_MEASURED = 1, 1


def say(text):
    """What is being measured, for those who wait."""
    print(text, file=sys.stderr, flush=True)


# --- what is measured


class Bench:
    """A folder with models and prompts, and what is measured in it."""

    def __init__(self, folder, rows, rounds, peers, model=None):
        self.folder, self.rows, self.rounds = folder, rows, rounds
        self.peers, self.model = peers, model
        self.made: dict[str, dict[str, Any]] = {}

    def work(self, shape):
        """The folder of a model of that shape, made when it is first asked for."""
        folder = self.folder / shape
        if shape not in self.made:
            which = ["--model", self.model] if shape == GIVEN else ["--shape", shape]
            given = ["--rows", self.rows] if self.rows else []
            [self.made[shape]] = module("work", self.folder, folder, *which, *given).lines()
        return folder

    def side_by_side(self, setting):
        """Ours and the peers, taking turns."""
        folder = self.work(setting.shape)
        runs, rounds = [], []
        sides = [_Side(peer, folder, setting) for peer in self.peers]
        # An update of several prompts warms up within itself, and takes as many times longer.
        warm, measured = (WARM, MEASURED) if setting.prompts == 1 else (1, 1)
        for number in range(self.rounds):
            say(f"{setting.name}: round {number + 1} of {self.rounds}")
            run = ours.train(folder, setting, warm + measured)
            runs.append(run)
            own = ours.summary([run], warm)
            one = {name: own[name] for name in ("total_s", "cpu_s")}
            rounds.append(one | {"peers": {side.label: side.round(one) for side in sides}})
        return {
            "setting": setting.name,
            "ours": ours.summary(runs, warm),
            "rounds": rounds,
            "peers": {side.label: side.figures() for side in sides},
        }

    def floor(self, setting):
        """How many times the floor an update takes."""
        say(f"{setting.name}: floor")
        folder = self.work(setting.shape)
        shape = [setting.shape] if setting.shape != "small" else []
        rounds = list(module("engine", folder, "floor", folder, *_sizes(setting), *shape).lines())
        prompt = prompt_tokens(folder)
        flops = fewest(model_config(folder), setting, prompt, setting.adapter_rank).total
        ratios = [one["seconds"] * one["flop_per_s"] / flops for one in rounds]
        return {
            "flops": flops,
            "floor_s": statistics.median(flops / one["flop_per_s"] for one in rounds),
            "ratio": statistics.median(ratios),
            "own_ratio": statistics.median(ratios) * rounds[0]["own_share"],
            "rounds": rounds,
        }

    def memory(self, setting):
        """Peaks: of a plain batch, with one completion at a time, and as foretold."""
        say(f"{setting.name}: memory")
        folder = self.work(setting.shape)
        plain = list(module("plain", folder, folder, *_sizes(setting)).lines())
        one = ours.train(folder, setting, 2, micro_batch_size=1)
        return {
            **{f"plain_{v}": _last(plain, v) for v in ("all", "completions")},
            "micro_batch_1": one.updates[-1].line["peak_bytes"],
            "estimate": ours.estimate_bytes(folder, setting),
        }

    def apart(self, setting):
        """Seconds of an update whose group has no variance, and of an evaluation."""
        say(f"{setting.name}: no variance, evaluation")
        folder = self.work(setting.shape)
        flat = ours.train(folder, setting, 4, rewards=[f"{folder / 'reward.py'}:constant"])
        lines = [update.line for update in flat.after(WARM)]
        judged = ours.train(
            folder, setting, 1, eval_steps=1, eval_samples=16, eval_max_new_tokens=setting.tokens
        )
        return {
            "flat_rollout_s": statistics.median(line["rollout_s"] for line in lines),
            "flat_update_s": statistics.median(line["update_s"] for line in lines),
            "eval_answers": 16,
            "eval_s": statistics.median(line["eval_s"] for line in judged.evaluations),
        }

    def start_up(self, setting):
        """Seconds from the start of the process to the first rollout, all rows to be read."""
        say("start-up")
        folder = self.work(setting.shape)
        shutil.rmtree(folder / "cache", ignore_errors=True)
        times = [ours.start_up_s(folder, setting) for _ in range(self.rounds + 1)]
        rows = (folder / "all.jsonl").read_text().count("\n")
        return {"rows": rows, "first_s": times[0], "start_up_s": statistics.median(times[1:])}


def _sizes(setting):
    return str(setting.group), str(setting.tokens)


class _Side:
    """A peer beside ours: its rounds, and what they come to."""

    def __init__(self, peer, folder, setting):
        self.peer, self.folder, self.setting = peer, folder, setting
        self.label = peer.label
        self.threads = peer.threads()
        self.steps, self.rss_bytes, self.rounds = [], 0, []

    def round(self, own):
        """Run it once; seconds and how many times ours they are. The first round chooses the
        threads."""
        env, steps = environment(self.folder), PEER_WARM + PEER_MEASURED
        found = peer_venv.better(
            [self.peer.train(env, self.folder, self.setting, steps, n) for n in self.threads],
            PEER_WARM,
        )
        self.threads = (found["threads"],)
        self.rss_bytes = max(self.rss_bytes, found["rss_bytes"])
        measured = found["steps"][PEER_WARM:]
        self.steps += measured
        one = peer_venv.medians(measured)
        one |= {"ratio": one["total_s"] / own["total_s"], "cpu_ratio": one["cpu_s"] / own["cpu_s"]}
        self.rounds.append(one)
        return one

    def figures(self):
        """Medians of the rounds, and the peaks; MLX's where the peer has one."""
        peaks = [step["mlx_peak_bytes"] for step in self.steps if "mlx_peak_bytes" in step]
        return {
            **{name: statistics.median(o[name] for o in self.rounds) for name in self.rounds[0]},
            "mlx_peak_bytes": max(peaks, default=None),
            "rss_bytes": self.rss_bytes,
            "threads": self.threads[0],
        }


def _last(steps, version):
    """The median peak of the steps behind the first one."""
    peaks = [step["mlx_peak_bytes"] for step in steps if step["version"] == version]
    return statistics.median(peaks[1:])


def measure(bench, args):
    """All that was asked for; --json has what there is so far."""
    found = {"settings": [], "six": None}
    for setting in SETTINGS:
        found["settings"].append(bench.side_by_side(setting))
        _write(found, args.json)
    for setting, figures in zip(SETTINGS, found["settings"], strict=True):
        figures["floor"] = bench.floor(setting)
        figures |= {"memory": bench.memory(setting), "apart": bench.apart(setting)}
        _write(found, args.json)
    if bench.made["small"]["gpu"]:
        found["settings"].append(bench.side_by_side(GPU_SETTING))
        found["settings"][-1]["floor"] = bench.floor(GPU_SETTING)
    if bench.model:
        found["settings"].append(bench.side_by_side(GIVEN_SETTING))
        found["settings"][-1]["floor"] = bench.floor(GIVEN_SETTING)
        _write(found, args.json)
    found["start_up"] = bench.start_up(SETTINGS[0])
    _write(found, args.json)
    folder = bench.work("small")
    if args.linearity:
        say("cost over group sizes and lengths")
        found["linearity"] = list(module("engine", folder, "linearity", folder).lines())
    if args.shares:
        say("each technique's share")
        sizes = _sizes(SETTINGS[0])
        found["shares"] = list(module("engine", folder, "shares", folder, *sizes).lines())
    _write(found, args.json)
    if args.profile:
        say("operations by kind")
        sizes = _sizes(SETTINGS[0])
        found["profile"] = list(module("operations", folder, folder, *sizes).lines())
        _write(found, args.json)
    if bench.peers:
        found["six"] = bench.side_by_side(SIX)
    return found


def _write(found, path):
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n")


def main():
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        help="mlx-lm-lora or trl, perhaps ==VERSION, run beside ours; may be given twice",
    )
    parser.add_argument(
        "--peer-venv",
        action="append",
        default=[],
        type=Path,
        help="an environment that has the peer already; in the order of --peer",
    )
    parser.add_argument(
        "--peer-blas", action="store_true", help="mlx-lm-lora a second time, with our BLAS"
    )
    parser.add_argument("--model", type=Path, help="a folder: its adapters are trained as well")
    parser.add_argument("--profile", action="store_true", help="operations by kind")
    parser.add_argument("--linearity", action="store_true", help="cost over sizes")
    parser.add_argument("--shares", action="store_true", help="each technique on and off")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=Path, help="JSONL with question and answer, such as GSM8K's")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--plot", type=Path, help="write a picture here; needs matplotlib")
    parser.add_argument("--show", type=Path, help="measure nothing; show what --json wrote")
    args = parser.parse_args()
    if args.show:
        found = json.loads(args.show.read_text())
    else:
        peers = peer_venv.peers_of(args.peer, args.peer_venv, args.peer_blas)
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), args.rows, args.rounds, peers, args.model)
            found = measure(bench, args)
        found["peers"] = {peer.label: peer.version() for peer in peers}
    _write(found, args.json)
    show(found)
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
