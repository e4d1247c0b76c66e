"""How much sooner TPE finds a good setting than random and Sobol draws, on a made-up objective.

    python benchmarks/search.py [--seeds 20] [--settings 60] [--noise 0.02] [--plot search.png]

The objective is a smooth "exact match" over nine parameters of a GRPO run, five of which matter: a
learning rate that wants to fall as the group grows, a KL coefficient, a loss type, its conditional
clip bound, and a corner that diverges. Each run sees it with normal noise, as a seed would. What is
reported is the noise-free value of the setting that looks best so far: what a user would pick.
"""

import argparse
import json
import math
import statistics
import time
from pathlib import Path

from grpo_core.config import FIELDS, MLXGRPOConfig
from orchestrator.run import RunState
from orchestrator.search.draws import keyed_uniform
from orchestrator.search.suggest import METHODS, suggest
from orchestrator.search.trials import Trial
from orchestrator.space.constraints import Rule, Rules
from orchestrator.space.expressions import parse
from orchestrator.space.space import Space
from orchestrator.spec.distributions import read_parameter

PARAMS = {
    "learning_rate": {"dist": "loguniform", "min": 1e-6, "max": 1e-3},
    "num_generations": {"dist": "choice", "values": [4, 8, 16, 32]},
    "kl_coeff": {"dist": "uniform", "min": 0.0, "max": 0.2},
    "loss_type": {"dist": "choice", "values": ["grpo", "dr_grpo", "dapo"]},
    "clip_eps_high": {"dist": "uniform", "min": 0.2, "max": 0.4, "when": "loss_type == 'dapo'"},
    "lora_rank": {"dist": "logint", "min": 1, "max": 64},
    "temperature": {"dist": "uniform", "min": 0.5, "max": 1.2},
    "warmup_ratio": {"dist": "quniform", "min": 0.0, "max": 0.3, "step": 0.1},
    "weight_decay": {"dist": "uniform", "min": 0.0, "max": 0.1},
}
EXCLUDE = "num_generations == 32 and lora_rank > 32"
BEST = 0.62


def true_value(setting):
    """The noise-free exact match of a setting, at most BEST; None where the run diverges."""
    rate = math.log10(setting["learning_rate"])
    if rate > -3.3 and setting["kl_coeff"] < 0.02:
        return None
    best_rate = -4.3 - 0.25 * math.log2(setting["num_generations"] / 8)
    loss = {"grpo": 0.04, "dr_grpo": 0.02, "dapo": 0.0}[setting["loss_type"]]
    clip = 2.0 * (setting.get("clip_eps_high", 0.28) - 0.28) ** 2
    return (
        BEST
        - 0.25 * (1 - math.exp(-((rate - best_rate) ** 2)))
        - 0.03 * (5 - math.log2(setting["num_generations"]))
        - 3.0 * (setting["kl_coeff"] - 0.04) ** 2
        - loss
        - clip
        - 0.02 * abs(setting["temperature"] - 0.9)
    )


def observed(setting, noise, seed, number):
    """The trial of a setting: the true value with a keyed normal draw, or a failure."""
    value = true_value(setting)
    if value is None:
        return Trial(setting, RunState.FAILED)
    draw = statistics.NormalDist().inv_cdf(keyed_uniform("noise", seed, number))
    return Trial(setting, RunState.COMPLETED, value + noise * draw)


def space_and_rules():
    """The search space with its one rule."""

    def fail(path, text):
        raise SystemExit(f"{path}: {text}")

    space = Space.of(read_parameter(name, table, fail) for name, table in PARAMS.items())
    rule = Rule("exclude[0]", parse(EXCLUDE, FIELDS), excludes=True)
    return space, Rules.of(vars(MLXGRPOConfig()), {}, (rule,))


def incumbents(method, settings, noise, seed):
    """After each setting the true value of the one that looks best, and the seconds of asking."""
    space, rules = space_and_rules()
    trials, curve, asked_s = [], [], 0.0
    for number in range(settings):
        start = time.perf_counter()
        (setting,) = suggest(space, rules, trials, 1, seed=seed, method=method).settings
        asked_s += time.perf_counter() - start
        trials.append(observed(setting, noise, seed, number))
        done = [trial for trial in trials if trial.value is not None]
        best = max(done, key=lambda trial: trial.value, default=None)
        curve.append(true_value(best.setting) if best else 0.0)
    return curve, asked_s


def summary(curves, settings):
    """Median regret at some numbers of settings, and the settings until within 0.03 of the best."""
    marks = [n for n in (10, 20, 30, 40, 60, 80, 100) if n <= settings]
    reached = [next((i for i, v in enumerate(c, 1) if v >= BEST - 0.03), None) for c in curves]
    return {
        "regret_median": {
            n: round(statistics.median(BEST - c[n - 1] for c in curves), 4) for n in marks
        },
        "regret_mean": {
            n: round(statistics.mean(BEST - c[n - 1] for c in curves), 4) for n in marks
        },
        "reached_0.03": sum(n is not None for n in reached),
        "settings_to_0.03_median": statistics.median(n or math.inf for n in reached),
    }


def plot(path, results, settings):
    """Median and quartiles of the regret by number of settings."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(figsize=(7, 4))
    for method, curves in results.items():
        regrets = [sorted(BEST - c[i] for c in curves) for i in range(settings)]
        quarter = len(curves) // 4
        x = range(1, settings + 1)
        axes.plot(x, [statistics.median(r) for r in regrets], label=method)
        axes.fill_between(
            x, [r[quarter] for r in regrets], [r[-1 - quarter] for r in regrets], alpha=0.2
        )
    axes.set(xlabel="settings tried", ylabel="regret of the pick (exact match)", yscale="log")
    axes.legend()
    plt.savefig(path, dpi=150, bbox_inches="tight")


def main():
    """Run the comparison and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--settings", type=int, default=60)
    parser.add_argument("--noise", type=float, default=0.02)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--plot", type=Path, help="write a picture here, where matplotlib is there")
    args = parser.parse_args()
    results, figures = {}, {}
    for method in args.methods:
        pairs = [incumbents(method, args.settings, args.noise, seed) for seed in range(args.seeds)]
        results[method] = [curve for curve, _ in pairs]
        figures[method] = summary(results[method], args.settings) | {
            "ask_ms_mean": round(1000 * statistics.mean(s for _, s in pairs) / args.settings, 1)
        }
    if "tpe" in results and "random" in results:
        pairs = list(zip(results["tpe"], results["random"], strict=True))
        figures["tpe_beats_random"] = sum(
            (a[-1] > b[-1]) + 0.5 * (a[-1] == b[-1]) for a, b in pairs
        )
    print(json.dumps(figures, indent=2))
    if args.plot:
        plot(args.plot, results, args.settings)


if __name__ == "__main__":
    main()
