"""`grpo-sweep best`, `compare` and `importance`: what a sweep has found, and how sure that is."""

import itertools

import click

from grpo_core.config import FIELDS, did_you_mean
from orchestrator.cli.options import json_option, metric_option
from orchestrator.cli.output import WIDE, console, print_json, say
from orchestrator.cli.references import Ref, open_queue
from orchestrator.errors import UsageError
from orchestrator.plan.next_runs import importance_of
from orchestrator.results import stats
from orchestrator.results.leaderboard import (
    RankedSetting,
    best_over_time,
    by_parameter,
    first_against_second,
    ranking,
)
from orchestrator.results.objective import (
    by_metric,
    completed_scores,
    differing_keys,
    moved_rewards,
)
from orchestrator.run import Run, RunState, Sweep
from orchestrator.spec.base_config import base_values
from orchestrator.text import bar, counts, duration, percent, plural
from orchestrator.text import metric as metric_text
from orchestrator.views.json_shapes import best_shape, history_shape, levels_shape
from orchestrator.views.results import best_table, levels_table, no_result_words
from orchestrator.views.tables import left_out_line, natural_width, plain_table


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option("--iqm", is_flag=True, help="Rank by the interquartile mean instead of the mean.")
@click.option("--history", is_flag=True, help="Show the best value so far against GPU hours.")
@metric_option
@json_option
def best(sweep: str, iqm: bool, history: bool, metric: str | None, as_json: bool) -> None:
    """Rank the settings of a SWEEP (default: the latest) by its objective.

    The mean over the seeds of each setting, with its 95% interval from three seeds on, and whether
    the first can be told from the second. Only completed runs count.

    \b
    Examples:
      grpo-sweep best lr
      grpo-sweep best lr --history
    """
    found, runs = by_metric(*_sweep_and_runs(sweep), metric)
    if history:
        points = _history(found, runs)
        if as_json:
            print_json(history_shape(found.objective, points))
        else:
            _print_history(found, runs, points)
        return
    statistic: stats.Statistic = "iqm" if iqm else "mean"
    rows = ranking(completed_scores(runs, found.objective), found.objective, statistic)
    duel = first_against_second(rows, found.objective)
    if as_json:
        print_json(best_shape(found.objective, rows, duel, statistic))
        return
    if rows:
        out = console()
        # Of all runs: the first to be done would have nothing to differ from.
        keys = differing_keys(run.overrides for run in runs)
        shown, brief = list(keys), False
        table = best_table(rows, found.objective, out.width >= WIDE, shown)
        # First long values are cut, then columns left out: rich would cut what is measured, too.
        while natural_width(table) > out.width and (shown or not brief):
            if brief:
                shown.pop()
            brief = True
            table = best_table(rows, found.objective, out.width >= WIDE, shown, brief=True)
        out.print(table)
        if left_out := keys[len(shown) :]:
            out.print(left_out_line(left_out))
        _print_duel(found, rows, duel)
    _say_what_is_missing(found, runs, sum(row.n for row in rows))
    _say_what_moved(found, rows)


def _sweep_and_runs(ref: str) -> tuple[Sweep, list[Run]]:
    with open_queue(readonly=True) as store:
        sweep = store.queries.sweep(ref)
        return sweep, store.queries.runs(sweep.id)


def _print_duel(sweep: Sweep, rows: list[RankedSetting], duel: stats.Comparison | None) -> None:
    """Whether the best setting is better than the next, in words, and what to do about it."""
    if duel is None:
        return
    print()
    if duel.p is None:
        print("first against second: n=1, no interval; try more seeds, such as seeds = [0, 1, 2]")
        return
    verdict = {"first": "the first is better", "second": "the second is better"}
    words = verdict.get(duel.verdict, duel.verdict)
    print(f"first against second: {words}, p = {duel.p:.2g} ({_met(duel)})")
    if all(row.params.get("eval_part") != "confirm" for row in rows):
        say(
            "the best of many is partly luck; fresh seeds and rows show more: "
            f"grpo-sweep confirm {sweep.name} --top 2 --seeds 100-102"
        )


def _met(duel: stats.Comparison) -> str:
    """`the first is ahead in 7 of 9 pairs of runs`; a tie is half of one."""
    what = "seeds that both have" if duel.paired else "pairs of runs"
    ahead = f"{duel.probability * duel.meetings:g} of {duel.meetings}"
    return f"the first is ahead in {ahead} {what}"


def _say_what_is_missing(sweep: Sweep, runs: list[Run], ranked: int) -> None:
    if ranked == len(runs):
        return
    if not ranked:
        say(f"{no_result_words(sweep, runs)}: {counts(sweep.counts)}")
    else:
        missing = plural(len(runs) - ranked, "run")
        # The ranked ones are completed; what is left of these has logged no value.
        others = {**sweep.counts, RunState.COMPLETED: sweep.counts[RunState.COMPLETED] - ranked}
        say(f"{missing} without a result: {counts(others)}")


def _say_what_moved(sweep: Sweep, rows: list[RankedSetting]) -> None:
    """Where all runs tie, a ranking says nothing; other metrics may."""
    scores = [score for row in rows for score in row.scores]
    for key, (low, high) in itertools.islice(moved_rewards(scores).items(), 1):
        name = sweep.objective.metric
        say(
            f"all {plural(len(scores), 'run')} tie at {name} {metric_text(name, scores[0].value)}; "
            f"{key} ended between {metric_text(key, low)} and {metric_text(key, high)}: "
            f"grpo-sweep best {sweep.name} --metric {key}"
        )


# --- the best so far


def _history(sweep: Sweep, runs: list[Run]) -> list[tuple[float, float]]:
    """(GPU hours, best value) after each run, in the order in which they ended."""
    scores = completed_scores(runs, sweep.objective)
    points = best_over_time(runs, scores, sweep.objective)
    return [(seconds / 3600, value) for seconds, value in points]


def _print_history(sweep: Sweep, runs: list[Run], points: list[tuple[float, float]]) -> None:
    table = plain_table("GPU time", f"best {sweep.objective.metric}", right=("GPU time",))
    shown = [p for i, p in enumerate(points) if i == 0 or p[1] != points[i - 1][1]]
    for hours, value in [*shown, *(points[-1:] if points[-1:] != shown[-1:] else [])]:
        table.add_row(duration(hours * 3600), metric_text(sweep.objective.metric, value))
    if points:
        console().print(table)
    else:
        say(no_result_words(sweep, runs))


# --- compare


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option("--by", "key", metavar="PARAM", required=True, help="The parameter to compare.")
@metric_option
@json_option
def compare(sweep: str, key: str, metric: str | None, as_json: bool) -> None:
    """Compare the values of a parameter over all other settings of a SWEEP.

    Where runs share everything but this parameter, seed included, they are compared pair by pair.

    \b
    Examples:
      grpo-sweep compare lr --by learning_rate
    """
    found, runs = by_metric(*_sweep_and_runs(sweep), metric)
    varied = dict.fromkeys(name for run in runs for name in run.overrides)
    if key not in varied:
        near = did_you_mean(key, varied if key in FIELDS else FIELDS)
        raise UsageError(f"--by {key}: no run of sweep {found.name} sets it{near}")
    base = base_values(found, [key]).get(key)
    levels = by_parameter(completed_scores(runs, found.objective), key, base, found.objective)
    if as_json:
        print_json(levels_shape(found.objective, key, levels))
    elif levels:
        console().print(levels_table(levels, key, found.objective))
    ranked = sum(level.n for level in levels)
    _say_what_is_missing(found, runs, ranked)


# --- importance


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@json_option
def importance(sweep: str, as_json: bool) -> None:
    """How much each parameter decided whether a setting of a SWEEP was among the best.

    PED-ANOVA over the completed settings; it needs twenty of them.

    \b
    Examples:
      grpo-sweep importance lr
    """
    found, runs = _sweep_and_runs(sweep)
    measured = importance_of(found, runs)
    if as_json:
        shares = [{"param": name, "share": share} for name, share in measured.shares.items()]
        print_json(
            {"settings": measured.settings, "params": shares, "reason": measured.reason or None}
        )
    elif measured.reason:
        say(f"sweep {found.name}: {measured.reason}")
    else:
        table = plain_table("parameter", "share", "", right=("share",))
        for name, share in measured.shares.items():
            table.add_row(name, percent(share), bar(share, 20))
        console().print(table)
        say(f"over {measured.settings} settings; it says what mattered, not which way to turn it")
