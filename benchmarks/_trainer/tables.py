"""The figures of the trainer's benchmark as tables and as a picture."""

import statistics

from benchmarks._trainer.aims import MB, all_settings, fit, line_of, targets
from benchmarks._trainer.work import GIVEN_SETTING


def markdown(heads, rows):
    """A table whose columns but the first are numbers."""
    lines = [" | ".join(heads), " | ".join(["---", *["---:"] * (len(heads) - 1)])]
    lines += [" | ".join(row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def settings_table(found):
    """Seconds and memory of an update, setting by setting."""
    heads = ("", "update s", "rollout", "reward", "learning", "tokens/s", "floor", "own", "MLX MB")
    heads += ("RSS MB",)
    rows = []
    for figures in all_settings(found):
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
    return markdown(heads, rows)


def peers_table(found):
    """Each peer beside ours, setting by setting."""
    heads = ("", "peer", "threads", "update s", "ratio", "by CPU", "MLX MB", "RSS MB")
    rows = []
    for figures in all_settings(found):
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
    return markdown(heads, rows)


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
    return markdown((f"{phase['phase']}, {unit}", "count", "ms", "share"), rows)


def targets_table(found):
    """What was aimed at, and whether it was reached."""
    rows = [(w, f"{v:.3g}", b, "yes" if ok else "no") for w, v, b, ok in targets(found)]
    return markdown(("", "measured", "aim", "met"), rows)


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
    return markdown(("technique", "s", "times as fast", "MLX MB"), rows)


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
    rows = [f for f in all_settings(found) if f["setting"] != GIVEN_SETTING.name]
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
