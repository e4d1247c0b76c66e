"""The benchmark's runs as tables and as a picture."""

from benchmarks._learning.reached import Reached, median, reached, restricted_mean, times_as_fast
from benchmarks._learning.tasks import CONTENDERS, PLAIN, TASKS
from benchmarks._trainer.tables import markdown


def by_contender(found, task, score):
    """Each contender's runs of a task until a score, by seed; ours in their order, then peers."""
    made: dict[str, dict[int, Reached]] = {}
    for run in sorted(found, key=_place):
        if run["task"] == task.name:
            times = reached(run["points"], score)
            made.setdefault(run["contender"], {})[run["seed"]] = times
    return made


def _place(run):
    names = list(CONTENDERS)
    return names.index(run["contender"]) if run["contender"] in names else len(names)


def _number(value):
    if value is None:
        return "not reached"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _ratio(ratio):
    if ratio is None:
        return ""
    if ratio.low is None:
        return f"{ratio.times:.2f}"
    told = " **wins**" if ratio.wins else " **loses**" if ratio.loses else ""
    return f"{ratio.times:.2f} ({ratio.low:.2f} to {ratio.high:.2f}){told}"


def table(found, task, score):
    """A task's contenders: what they took until the score, and beside the plain settings."""
    heads = (
        "",
        "reached",
        "CPU s",
        "wall s",
        "tokens",
        "mean CPU s",
        "times as fast, CPU",
        "tokens",
    )
    rows = []
    made = by_contender(found, task, score)
    for name, runs in made.items():
        each = list(runs.values())
        done = sum(not run.is_censored for run in each)
        beside = [times_as_fast(made.get(PLAIN, {}), runs, m) for m in ("cpu_s", "tokens")]
        rows.append(
            (
                name,
                f"{done} of {len(each)}",
                *(_number(median(each, m)) for m in ("cpu_s", "wall_s", "tokens")),
                _number(restricted_mean(each, "cpu_s")),
                *(_ratio(ratio) if name != PLAIN else "" for ratio in beside),
            )
        )
    return markdown(heads, rows)


def show(found):
    """All tables."""
    for task in TASKS:
        if any(run["task"] == task.name for run in found):
            for score in task.scores:
                print(f"\n{task.name}, to {score:.0%}:\n\n{table(found, task, score)}")


def plot(found, path):
    """Held-out score over the processor's seconds: every run thin, a panel a task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(run["contender"] for run in sorted(found, key=_place)))
    colours = dict(zip(names, pyplot.get_cmap("tab20").colors, strict=False))
    figure, axes = pyplot.subplots(1, len(TASKS), figsize=(6 * len(TASKS), 4.2), squeeze=False)
    for task, place in zip(TASKS, axes[0], strict=True):
        told = set()
        for run in (run for run in found if run["task"] == task.name):
            name = run["contender"]
            xs, ys = zip(*((p["cpu_s"], p["score"]) for p in run["points"]), strict=True)
            label = None if name in told else name
            told.add(name)
            place.plot(xs, ys, color=colours[name], linewidth=0.9, alpha=0.7, label=label)
        for score in task.scores:
            place.axhline(score, color="grey", linewidth=0.8, linestyle=":")
        place.set(xlabel="processor's seconds of training", ylabel="held-out exact match")
        place.set_title(task.name)
        place.set_xlim(0, task.budget_s)
        place.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
