"""`grpo-sweep best`: the ranking of a sweep, with intervals over its seeds."""

from typing import TYPE_CHECKING

import click

from orchestrator.cli.common import WIDE, Ref, console, json_option, open_queue, print_json, say

if TYPE_CHECKING:
    from orchestrator.run import Run, Sweep


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@json_option
def best(sweep: str, as_json: bool) -> None:
    """Rank the settings of a SWEEP (default: the latest) by its objective.

    The mean over the seeds of each setting, with a 95% bootstrap interval.
    """
    from orchestrator.leaderboard import ranking
    from orchestrator.views.results import best_table, scores
    from orchestrator.views.shapes import best_shape

    with open_queue(readonly=True) as store:
        found = store.sweep(sweep)
        runs = store.runs(found.id)
    rows = ranking(scores(runs, found.objective), found.objective)
    if as_json:
        print_json(best_shape(found.objective, rows))
        return
    if rows:
        out = console()
        out.print(best_table(rows, found.objective, wide=out.width >= WIDE))
    _say_what_is_missing(found, runs, sum(row.n for row in rows))


def _say_what_is_missing(sweep: "Sweep", runs: "list[Run]", ranked: int) -> None:
    from orchestrator.views.text import counts, plural

    if ranked == len(runs):
        return
    if not ranked:
        say(
            f"sweep {sweep.name} has no result yet for {sweep.objective.metric}: "
            f"{counts(sweep.counts)}"
        )
    else:
        missing = plural(len(runs) - ranked, "run")
        say(f"{missing} without a result: {counts(sweep.counts)}")
