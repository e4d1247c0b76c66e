"""`show A B` in words: where two runs differ, one beside the other."""

from collections.abc import Iterable, Sequence
from typing import Any

from orchestrator.results.training_log import finite_number, read_curve
from orchestrator.run import Run, Sweep
from orchestrator.text import UNKNOWN, metric, setting_value, sparkline
from orchestrator.views.learning_curves import SPARK_WIDTH
from orchestrator.views.run_diff import CompletionDifference, Pair, RunDiff

# Of what two runs logged those that tell how they went; --json has all.
_TELLING = (
    *("em", "eval_reward", "reward_mean", "loss", "kl", "entropy", "grad_norm"),
    *("completion_length", "truncated_frac", "clip_frac", "tokens_per_s", "peak_bytes"),
)
# Metrics named where logs part; a completion in the terminal.
_NAMED, _CHARS = 6, 1500


def diff_lines(runs: Sequence[Run], sweep: Sweep, diff: RunDiff) -> list[str]:
    """All of it, a line a fact, for a terminal; `sweep` says which metric comes first."""
    objective = sweep.objective.metric
    names = [str(run.id) for run in runs]
    lines = [f"run {run.id}: {run.name}   (sweep {run.sweep})   {run.state}" for run in runs]
    lines += _table("settings", ("", *names), _setting_rows(diff.settings))
    if not diff.settings:
        lines.append("  settings   all equal")
    lines += _table("packages", ("", *names), _setting_rows(diff.versions))
    keys = list(dict.fromkeys((objective, *_TELLING)))
    rows = [_metric_row(key, diff.metrics[key]) for key in keys if key in diff.metrics]
    lines += _table("last", ("", *names, "difference"), rows)
    lines += _curve_lines(runs, list(dict.fromkeys(("reward_mean", objective))))
    lines.append(f"  log        {_log_text(diff)}")
    return lines + _completion_lines(names, diff.completion)


def _setting_rows(pairs: Any) -> list[tuple[str, ...]]:
    return [(key, *map(_shown, pair)) for key, pair in pairs.items()]


def _shown(value: Any) -> str:
    return UNKNOWN if value is None else setting_value(value)


def _metric_row(key: str, pair: Pair) -> tuple[str, ...]:
    one, other = (finite_number(value) for value in pair)
    if one is None or other is None:
        return (key, metric(key, one), metric(key, other), "")
    sign = "+" if other > one else ""
    return (key, metric(key, one), metric(key, other), f"{sign}{metric(key, other - one)}")


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns under the runs' numbers, the title before the first line."""
    if not rows:
        return []
    table = [head, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(head))]
    lines = []
    for at, row in enumerate(table):
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append(f"  {title if at == 0 else '':<10} {'  '.join(cells)}".rstrip())
    return lines


def _curve_lines(runs: Sequence[Run], metrics: Iterable[str]) -> list[str]:
    """Small pictures of both on one scale, so that they can be compared."""
    lines = []
    for name in metrics:
        curves = [[value for _, value in read_curve(run.folder, name)] for run in runs]
        values = [value for curve in curves for value in curve]
        if not values:
            continue
        for at, (run, curve) in enumerate(zip(runs, curves, strict=True)):
            drawn = sparkline(curve, SPARK_WIDTH, min(values), max(values)) or "not logged"
            lines.append(f"  {name if at == 0 else '':<{max(10, len(name))}} {drawn}  {run.id}")
    return lines


def _log_text(diff: RunDiff) -> str:
    if not any(None not in pair for pair in diff.metrics.values()):
        return "nothing that both have logged"
    if diff.log is None:
        return "equal wherever both have logged, but for times and memory"
    named = ", ".join(diff.log.metrics[:_NAMED])
    left = len(diff.log.metrics) - _NAMED
    more = f" and {left} more" if left > 0 else ""
    return f"differs from update {diff.log.update} on: {named}{more}"


def _completion_lines(names: Sequence[str], found: CompletionDifference | None) -> list[str]:
    if found is None:
        return ["  completion none that both have kept differs"]
    kind = "a held-out prompt" if found.one.held_out else "a prompt of training"
    if not found.same_prompt:
        lines = [f"  completion update {found.one.update}: the prompts differ already"]
        for name, sample in zip(names, (found.one, found.other), strict=True):
            lines += _block(f"{name} was asked", sample.prompt)
    else:
        lines = [f"  completion first differs at update {found.one.update}, to {kind}"]
        lines += _block("prompt", found.one.prompt)
    for name, sample in zip(names, (found.one, found.other), strict=True):
        lines += _block(f"{name}, reward {metric('reward', sample.reward)}", sample.completion)
    return lines


def _block(title: str, text: str) -> list[str]:
    if len(text) > _CHARS:
        text = f"{text[:_CHARS]} …"
    return [f"    {title}:", *(f"      {line}" for line in text.splitlines() or [""])]
