"""What the figures of the trainer's benchmark say, and how far they are from the aims."""

import statistics

from benchmarks._trainer.work import GIVEN_SETTING

MB = 1e6


def fit(points):
    """R^2 of the straight line through (x, y) pairs."""
    return statistics.correlation(*zip(*points, strict=True)) ** 2


def line_of(found, over):
    """(size, seconds) of an update at several group sizes or lengths."""
    rows = [row for row in found["linearity"] if row["over"] == over]
    return [(row[over], row["rollout_s"] + row["update_s"]) for row in rows]


def all_settings(found):
    """The settings that were measured, the one of six prompts last."""
    return [*found["settings"], *([found["six"]] if found["six"] else [])]


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
    for figures in all_settings(found):
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
