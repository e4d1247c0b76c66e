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
MB = 1e6


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
        one = {n: statistics.median(step[n] for step in measured) for n in ("total_s", "cpu_s")}
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


# --- what the figures say


def fit(points):
    """R^2 of the straight line through (x, y) pairs."""
    return statistics.correlation(*zip(*points, strict=True)) ** 2


def line_of(found, over):
    """(size, seconds) of an update at several group sizes or lengths."""
    rows = [row for row in found["linearity"] if row["over"] == over]
    return [(row[over], row["rollout_s"] + row["update_s"]) for row in rows]


# How many times as fast as a peer: by setting and peer.
AIMS = {
    ("8 x 64", "trl"): 3,
    ("8 x 64", "mlx-lm-lora, our BLAS"): 8,
    ("16 x 128", "trl"): 3,
    ("16 x 128", "mlx-lm-lora, our BLAS"): 9,
    ("8 x 64, 6 prompts", "trl"): 3,
    ("8 x 64, 6 prompts", "mlx-lm-lora, our BLAS"): 4,
    ("8 x 48, given", "trl"): 1,
}
FLOOR_AIM = 4
# Of the small model's updates: MLX's peak, and the resident memory of the whole process; MB.
PEAK_AIM, RSS_AIM = 60, 210
GIVEN_AIM_S = 7


def targets(found):
    """(what, measured, wanted, met): the aims that this run has figures for."""
    settings = [*found["settings"], *([found["six"]] if found["six"] else [])]
    for figures in settings:
        name = figures["setting"]
        for label, peer in figures["peers"].items():
            aim = AIMS.get((name, label))
            if aim:
                yield _at_least(f"{name}: times as fast as {label}", peer["ratio"], aim)
        if name == GIVEN_SETTING.name:
            yield _at_most(f"{name}: s an update", figures["ours"]["total_s"], GIVEN_AIM_S)
            continue
        if "memory" not in figures:
            continue
        yield _at_most(f"{name}: times the floor", figures["floor"]["ratio"], FLOOR_AIM)
        memory, peak = figures["memory"], figures["ours"]["mlx_peak_bytes"]
        yield _at_most(f"{name}: MLX peak, MB", peak / MB, PEAK_AIM)
        yield _at_most(f"{name}: resident memory, MB", figures["ours"]["rss_bytes"] / MB, RSS_AIM)
        share = peak / memory["plain_completions"]
        yield _at_most(f"{name}: MLX peak as a share of a plain batch's", share, 0.5)
        foretold = memory["estimate"] / peak
        yield f"{name}: peak foretold over measured", foretold, "0.75 to 1.25", _near(foretold)
        lost = figures["apart"]["flat_update_s"] / figures["ours"]["update_s"]
        yield _at_most(f"{name}: update without variance over a real one", lost, 0.01)
    small = found["settings"][0]
    peak = small["memory"]["micro_batch_1"] / MB
    yield _at_most(f"{small['setting']}: MLX peak with micro_batch_size=1, MB", peak, 45)
    yield _at_most("start to first rollout, s", found["start_up"]["start_up_s"], 1.0)
    for over in ("group", "tokens") if "linearity" in found else ():
        yield _at_least(f"straight line over {over}, R^2", fit(line_of(found, over)), 0.99)


def _at_least(what, value, bound):
    return what, value, f"at least {bound}", value >= bound


def _at_most(what, value, bound):
    return what, value, f"at most {bound}", value <= bound


def _near(ratio):
    return 0.75 <= ratio <= 1.25


# --- shown


def _table(heads, rows):
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def settings_table(found):
    """Seconds and memory of an update, setting by setting."""
    heads = ("", "update s", "rollout", "reward", "learning", "tokens/s", "floor", "own", "MLX MB")
    heads += ("RSS MB",)
    rows = []
    for figures in _all_settings(found):
        own, floor = figures["ours"], figures.get("floor")
        rows.append(
            (
                figures["setting"],
                *(f"{own[n]:.3g}" for n in ("total_s", "rollout_s", "reward_s", "update_s")),
                f"{own['tokens_per_s']:.0f}",
                f"{floor['ratio']:.2f}" if floor else "",
                f"{floor['own_ratio']:.2f}" if floor else "",
                f"{own['mlx_peak_bytes'] / MB:.0f}",
                f"{own['rss_bytes'] / MB:.0f}",
            )
        )
    return _table(heads, rows)


def peers_table(found):
    """Each peer beside ours, setting by setting."""
    heads = ("", "peer", "threads", "update s", "ratio", "by CPU", "MLX MB", "RSS MB")
    rows = []
    for figures in _all_settings(found):
        for label, peer in figures["peers"].items():
            peak = peer["mlx_peak_bytes"]
            rows.append(
                (
                    figures["setting"],
                    label,
                    str(peer["threads"]),
                    f"{peer['total_s']:.3g}",
                    f"{peer['ratio']:.1f}",
                    f"{peer['cpu_ratio']:.1f}",
                    f"{peak / MB:.0f}" if peak else "",
                    f"{peer['rss_bytes'] / MB:.0f}",
                )
            )
    return _table(heads, rows)


def _all_settings(found):
    return [*found["settings"], *([found["six"]] if found["six"] else [])]


def profile_table(phase):
    """One phase's operations by kind: of each decoded token, or of the update."""
    per = phase["tokens"] if phase["phase"] == "rollout" else 1
    total = sum(seconds for _, seconds in phase["kinds"].values())
    known = sorted(phase["kinds"].items(), key=lambda item: -item[1][1])
    rows = [
        (kind, f"{n / per:.1f}", f"{s / per * 1e3:.3f}", f"{s / total:.0%}")
        for kind, (n, s) in known
    ]
    count = sum(n for n, _ in phase["kinds"].values())
    measured = phase["measured_s"] / per * 1e3
    rows.append(("all", f"{count / per:.1f}", f"{total / per * 1e3:.3f}", "100%"))
    rows.append(("measured together", "", f"{measured:.3f}", ""))
    unit = "a token" if phase["phase"] == "rollout" else "an update"
    return _table((f"{phase['phase']}, {unit}", "count", "ms", "share"), rows)


def targets_table(found):
    """What was aimed at, and whether it was reached."""
    rows = [(w, f"{v:.3g}", b, "yes" if ok else "no") for w, v, b, ok in targets(found)]
    return _table(("", "measured", "aim", "met"), rows)


def shares_table(found):
    """Each technique's own share."""
    rows = []
    for share in found["shares"]:
        a, b = share["without"], share["with"]
        peaks = a["mlx_peak_bytes"] / MB, b["mlx_peak_bytes"] / MB
        rows.append(
            (
                f"{share['technique']} ({share['phase']})",
                f"{a['seconds']:.2f} -> {b['seconds']:.2f}",
                f"{share['times_as_fast']:.2f}",
                f"{peaks[0]:.0f} -> {peaks[1]:.0f}",
            )
        )
    return _table(("technique", "s", "times as fast", "MLX MB"), rows)


def plot(found, path):
    """Ours beside the peer; cost over sizes; each technique's share."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [_plot_settings]
    panels += [_plot_lines] if "linearity" in found else []
    panels += [_plot_shares] if "shares" in found else []
    figure, axes = pyplot.subplots(1, len(panels), figsize=(5 * len(panels), 4), squeeze=False)
    for panel, place in zip(panels, axes[0], strict=True):
        panel(found, place)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _plot_settings(found, axes):
    rows = [f for f in _all_settings(found) if f["setting"] != GIVEN_SETTING.name]
    labels = list(rows[0]["peers"])
    width = 0.8 / (1 + len(labels))
    for x, figures in enumerate(rows):
        own, label = figures["ours"], x == 0
        rollout, update = own["rollout_s"], own["update_s"]
        at = x - 0.4 + width / 2
        axes.bar(at, rollout, width, color="C0", label="ours: rollout" if label else None)
        axes.bar(at, update, width, rollout, color="C1", label="ours: update" if label else None)
        if "floor" in figures:
            # By its ratio, as it was measured at another moment of the machine.
            floor = (rollout + update) / figures["floor"]["ratio"]
            axes.hlines(
                floor, at - width / 2, at + width / 2, "black", label="floor" if label else None
            )
        for number, name in enumerate(labels, start=1):
            seconds = figures["peers"][name]["total_s"]
            told = name if label else None
            axes.bar(at + number * width, seconds, width, color=f"C{6 + number}", label=told)
    axes.set_xticks(range(len(rows)), [figures["setting"] for figures in rows])
    axes.set(ylabel="seconds", title="One update (group x tokens)")
    axes.legend(fontsize=8)


def _plot_lines(found, axes):
    for over, label in (("group", "completions of 64 tokens"), ("tokens", "8 completions")):
        points = line_of(found, over)
        scale = 64 if over == "group" else 8
        xs, ys = zip(*((x * scale, y) for x, y in points), strict=True)
        axes.plot(xs, ys, "o", label=f"{label}: R² {fit(points):.4f}")
        slope, start = statistics.linear_regression(xs, ys)
        axes.plot(xs, [start + slope * x for x in xs], color="grey", linewidth=0.8)
    axes.set(xlabel="tokens in the group", ylabel="seconds", title="Cost of an update by size")
    axes.legend(fontsize=8)


def _plot_shares(found, axes):
    rows = [*reversed(found["shares"])]
    for key, colour, offset in (("without", "C7", 0.2), ("with", "C0", -0.2)):
        seconds = [row[key]["seconds"] for row in rows]
        axes.barh([y + offset for y in range(len(rows))], seconds, 0.35, color=colour, label=key)
    names = [f"{row['technique'].partition(' (')[0]} ({row['phase']})" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set(xlabel="seconds", title="Each technique, without and with")
    axes.legend(fontsize=8)


def show(found):
    """All tables."""
    print(settings_table(found), end="\n\n")
    print(peers_table(found), end="\n\n")
    print(targets_table(found))
    for figures in found["settings"]:
        if "apart" in figures:
            apart = figures["apart"]
            print(
                f"\n{figures['setting']}: {apart['eval_answers']} answers of an evaluation: ",
                end="",
            )
            print(
                f"{apart['eval_s']:.2f} s; a group without variance: {apart['flat_rollout_s']:.2f}"
            )
            print(f"s of rollout, {apart['flat_update_s']:.4f} s of update")
    start = found["start_up"]
    print(f"\nstart-up over {start['rows']:,} rows: {start['start_up_s']:.2f} s;", end=" ")
    print(f"{start['first_s']:.2f} s where they are not tokenised yet")
    if "shares" in found:
        print(f"\n{shares_table(found)}")
    for phase in found.get("profile", ()):
        print(f"\n{profile_table(phase)}")


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
