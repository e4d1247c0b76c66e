"""`grpo-sweep stop-check`: what a stop rule would have done to a sweep that is over."""

from dataclasses import replace

import click

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json, say
from orchestrator.cli.references import Ref, open_queue
from orchestrator.errors import NothingAffected, SpecError, UsageError
from orchestrator.run import Run, Sweep
from orchestrator.spec.tables import METRICS
from orchestrator.stopping.curves import curve_of
from orchestrator.stopping.health import parse_health
from orchestrator.stopping.replay import Replay, replay
from orchestrator.stopping.rules import RULES, StopRule, parse_share, stop_rule
from orchestrator.text import duration, metric, percent
from orchestrator.views.tables import plain_table


@click.command("stop-check")
@click.argument("sweep", type=Ref(), default="@")
@click.option("--rule", type=click.Choice(RULES), help="One rule alone; default: each of them.")
@click.option("--warmup", metavar="SHARE", help="Share of a run that is left alone, such as 30%.")
@click.option(
    "--health",
    metavar="CONDITION",
    multiple=True,
    help="A health rule, such as 'frac_reward_zero_std == 1 for 20'; repeat for more.",
)
@json_option
def stop_check(
    sweep: str, rule: str | None, warmup: str | None, health: tuple[str, ...], as_json: bool
) -> None:
    """Replay the finished curves of a SWEEP under stop rules, before one is turned on.

    Says what each would have saved, and whether it would have stopped the best setting. What is not
    given is as in the sweep's own [stop].

    \b
    Example:
      grpo-sweep stop-check lr --rule median --warmup 30%
    """

    with open_queue(readonly=True) as store:
        found = store.queries.sweep(sweep)
        runs = _ended(found, store.queries.runs(found.id))
    own = _given(found, warmup, health)
    curves = [curve_of(run) for run in runs]
    results = {
        name: replay(curves, replace(own, rule=name), found.objective)
        for name in ([rule] if rule else RULES)
    }
    if as_json:
        print_json([_shape(name, result, runs) for name, result in results.items()])
        return
    _print(results, runs, found, own)


def _ended(sweep: Sweep, runs: list[Run]) -> list[Run]:
    """The runs that have ended, in the order in which they did; NothingAffected without any."""
    ended = [run for run in runs if run.state in ("completed", "pruned", "failed")]
    if not ended:
        raise NothingAffected(
            f"sweep {sweep.name}: no run has ended yet; there is nothing to compare"
        )
    if len(ended) < len(runs):
        say(f"{len(runs) - len(ended)} of {len(runs)} runs have not ended and are left out")
    return sorted(ended, key=lambda run: run.ended or "")


def _given(sweep: Sweep, warmup: str | None, health: tuple[str, ...]) -> StopRule:
    """The sweep's own rule with what the command line says; UsageError."""

    own = stop_rule(sweep.stop)
    try:
        if warmup is not None:
            own = replace(own, warmup=parse_share(warmup))
        if health:
            own = replace(own, health=tuple(parse_health(text, METRICS) for text in health))
    except SpecError as e:
        raise UsageError(str(e)) from None
    return own


def _print(results: dict[str, Replay], runs: list[Run], sweep: Sweep, rule: StopRule) -> None:
    out = console()
    heads = ("rule", "runs stopped", "updates saved", "time saved", "best setting")
    table = plain_table(*heads, right=heads[1:4])
    for name, result in results.items():
        table.add_row(
            name,
            f"{len(result.stopped)} of {len(runs)}",
            percent(result.share_saved),
            duration(result.saved_s),
            _winner_text(result, sweep),
        )
    out.print(table)
    names = {run.id: run.name for run in runs}
    if len(results) == 1:
        for decision in next(iter(results.values())).stopped:
            where = f"run {decision.run} {names[decision.run]}, update {decision.update}"
            out.print(f"{where}: {decision.reason}", soft_wrap=True)
    health = ", ".join(map(str, rule.health)) or "no rule"
    say(f"warm-up {rule.warmup:.0%}; health in each: {health}")


def _winner_text(result: Replay, sweep: Sweep) -> str:
    if result.winner is None:
        return "none has a result"
    if not result.winner_killed:
        return "kept"
    if result.lost is None:
        return "STOPPED, and all others too"
    return f"STOPPED; {metric(sweep.objective.metric, result.lost)} worse without it"


def _shape(name: str, result: Replay, runs: list[Run]) -> dict[str, object]:
    """A rule in `stop-check --json`."""
    return {
        "rule": name,
        "runs": len(runs),
        "updates": result.updates,
        "updates_saved": result.saved,
        "wall_s": result.wall_s,
        "saved_s": result.saved_s,
        "winner_stopped": result.winner_killed,
        "lost": result.lost,
        "stopped": [
            {"run": d.run, "update": d.update, "reason": d.reason, "evidence": d.evidence}
            for d in result.stopped
        ],
    }
