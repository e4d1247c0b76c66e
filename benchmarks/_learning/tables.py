"""The benchmark's runs as tables and as a picture."""

from benchmarks._learning.reached import Reached, median, reached, restricted_mean, times_as_fast
from benchmarks._learning.tasks import BEST, CONTENDERS, PLAIN, TASKS
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
    """Above how the score rises, a line a run; below how many times as fast each contender is."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        2, len(TASKS), figsize=(6.4 * len(TASKS), 9), squeeze=False, height_ratios=(3, 4)
    )
    for task, rise, ratios in zip(TASKS, *axes, strict=True):
        _plot_rise(rise, found, task)
        _plot_ratios(ratios, found, task)
    figure.tight_layout()
    figure.savefig(path, dpi=80)


def _plot_rise(place, found, task):
    """The plain settings, the best ones and the peers; the others would hide them."""
    names = [PLAIN, BEST, *sorted({run["contender"] for run in found} - {*CONTENDERS})]
    for number, name in enumerate(names):
        runs = [r for r in found if (r["task"], r["contender"]) == (task.name, name)]
        for run in runs:
            xs, ys = zip(*((p["cpu_s"], p["score"]) for p in run["points"]), strict=True)
            label = name if run is runs[0] else None
            place.plot(xs, ys, color=f"C{number}", linewidth=1, alpha=0.8, label=label)
    for score in task.scores:
        place.axhline(score, color="grey", linewidth=0.8, linestyle=":")
    place.set(xlabel="processor's seconds of training", ylabel="held-out exact match")
    place.set(title=task.name, xlim=(0, task.budget_s))
    place.legend(fontsize=8, loc="lower right")


def _plot_ratios(place, found, task):
    """With their intervals, at each score of the task."""
    for number, score in enumerate(task.scores):
        made = by_contender(found, task, score)
        names = [name for name in reversed(made) if name != PLAIN]
        for row, name in enumerate(names):
            ratio = times_as_fast(made[PLAIN], made[name], "cpu_s")
            if ratio is None or ratio.low is None:
                continue
            at = row + 0.15 - 0.3 * number
            label = f"to {score:.0%}" if row == 0 else None
            place.plot([ratio.low, ratio.high], [at, at], color=f"C{number}", linewidth=1.4)
            place.plot(ratio.times, at, "os"[number], color=f"C{number}", markersize=5, label=label)
        place.set_yticks(range(len(names)), names, fontsize=8)
    place.axvline(1, color="grey", linewidth=0.8)
    place.axvline(2, color="grey", linewidth=0.8, linestyle=":")
    place.set(xscale="log", xlim=(0.1, 6), xlabel="times as fast as plain, processor's seconds")
    place.set_xticks([0.2, 0.5, 1, 2, 5], ["0.2", "0.5", "1", "2", "5"])
    place.minorticks_off()
    place.legend(fontsize=8, loc="upper left")
