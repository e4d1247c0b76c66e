"""What each section of the report says: words, table cells, and the figures by their ids.

Plain values for the template; how they look is decided in `page.html` and `page.css`.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from orchestrator.report import parameter_plots, ranking_plot, time_plots
from orchestrator.report.curve_data import TITLES
from orchestrator.report.gather import (
    Facts,
    RunFacts,
    evaluation_interval,
)
from orchestrator.report.shapes import cut
from orchestrator.results.illnesses import Illness
from orchestrator.results.leaderboard import RankedSetting, against
from orchestrator.results.objective import Score
from orchestrator.results.samples import Sample, read_before_after, read_samples
from orchestrator.results.training_log import read_versions
from orchestrator.run import Attempt, Objective, Run, RunState, Sweep
from orchestrator.text import clock, counts, duration, metric, plural

# Settings in the table with the plot; the others can be opened.
RANKED_SHOWN = 40
# A completion longer than this is cut in the middle: a report is for looking.
SAMPLE_CHARS = 4000

_NOT_WELL = (RunState.FAILED, RunState.CANCELLED, RunState.PAUSED)

Context = dict[str, Any]


def context(facts: Facts, now: datetime) -> Context:
    """Everything that the template shows; `figures` are plotly's, by id."""
    figures: Context = {}
    parameters = _parameters(facts, figures)
    return {
        **_head(facts, now),
        "ranking": _ranking(facts, figures),
        "curves": any(run.logged.curves for run in facts.runs),
        "parameters": parameters,
        "lines": parameters and parameters["lines"],
        "time": _time(facts, figures, now),
        "samples": _samples(facts),
        "runs": [_run_row(run, facts) for run in facts.runs],
        "keys": facts.keys,
        "tagged": any(run.run.tags for run in facts.runs),
        "not_well": [_not_well(run) for run in facts.runs if run.run.state in _NOT_WELL],
        "ill": [_ill(run.run, illness) for run in facts.runs for illness in run.illnesses],
        "figures": figures,
    }


# --- the first screen


def _head(facts: Facts, now: datetime) -> Context:
    sweep = facts.sweep
    return {
        "name": sweep.name,
        "state": sweep.state,
        "reason": sweep.reason if sweep.paused else None,
        "counts": counts(sweep.counts),
        "objective": sweep.objective.metric,
        "objective_text": _objective_text(facts),
        "winner": _winner(facts),
        "tiles": _tiles(facts),
        "written": now.astimezone().strftime("%Y-%m-%d %H:%M"),
        "specs": [_spec(member, facts) for member in facts.members],
    }


def _spec(sweep: Sweep, facts: Facts) -> Context:
    """What was submitted, and with which packages its best run was trained."""
    best = next((s.run for s in facts.scores if s.run.sweep_id == sweep.id), None)
    return {
        "name": sweep.name if facts.sweeps else "",
        "submitted": clock(sweep.created),
        "cwd": sweep.cwd,
        "config_source": sweep.config_source,
        "config_text": sweep.config_text,
        "spec_text": sweep.spec_text,
        "versions": read_versions(best.folder) if best else {},
    }


def _objective_name(facts: Facts) -> str:
    name = facts.objective.metric
    return TITLES[name][0].lower() if name in TITLES else name


def _objective_text(facts: Facts) -> str:
    """`exact match at the end, higher is better`."""
    kind, _, n = facts.objective.reduce.partition(":")
    when = {"best": "at its best", "last": f"mean of the last {n}" if n else "at the end"}[kind]
    better = "higher" if facts.objective.goal == "max" else "lower"
    return f"{_objective_name(facts)} {when}, {better} is better"


def _winner(facts: Facts) -> str:
    """The best setting in words; several share the first place where their means are equal."""
    if not facts.rows:
        return ""
    equal = sum(row.rank == 1 for row in facts.rows) - 1
    more = f" (and {plural(equal, 'setting')} equal to it)" if equal else ""
    return facts.label(facts.rows[0].params) + more


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    """(title, value, what to know about it)."""
    tiles = []
    name = facts.objective.metric
    if facts.rows:
        best = facts.rows[0]
        words = _interval_text(best, facts)
        tiles.append((f"best setting’s {_objective_name(facts)}", metric(name, best.mean), words))
    if facts.rows and facts.before is not None:
        words = "mean of the runs, before their first update"
        tiles.append(("before training", metric(name, facts.before), words))
    tiles.append(("runs", str(len(facts.runs)), counts(facts.sweep.counts)))
    lost = f"{duration(facts.lost_s)} of it in runs that failed"
    tiles.append(("trained", duration(facts.wall_s), lost if facts.lost_s else "all attempts"))
    return tiles


def _interval_text(row: RankedSetting, facts: Facts) -> str:
    if row.ci95 is not None:
        return f"95% interval {_span(row.ci95, facts)}, {row.n}\u00a0seeds"
    if row.n > 1:
        return f"{_spread(row, facts)}, {row.n}\u00a0seeds"
    if (found := evaluation_interval(row, facts.objective)) is not None:
        return f"one run; {_span(found, facts)} by its evaluation’s own noise"
    return "one run, no interval"


def _spread(row: RankedSetting, facts: Facts) -> str:
    """The interval; without one, what the few runs reached, and not called one."""
    if row.n == 1:
        return "one run"
    if row.ci95 is not None:
        return _span(row.ci95, facts)
    if row.range[0] == row.range[1]:
        return f"all {metric(facts.objective.metric, row.mean)}"
    return f"range {_span(row.range, facts)}"


def _span(interval: tuple[float, float], facts: Facts) -> str:
    """`63.8% – 76.4%`, on one line."""
    return "\u00a0–\u2060\u00a0".join(metric(facts.objective.metric, value) for value in interval)


# --- ranking


def _ranking(facts: Facts, figures: Context) -> Context | None:
    if not facts.rows:
        return None
    shown = facts.rows[:RANKED_SHOWN]
    plot = ranking_plot.ranking_figure(shown, facts.objective, facts.before)
    figures["ranking"] = plot.to_plotly_json()
    cells = [_ranking_row(row, facts) for row in facts.rows]
    return {
        "keys": facts.keys,
        "spread": "95% interval" if any(row.ci95 for row in facts.rows) else "spread",
        "shown": cells[:RANKED_SHOWN],
        "rest": cells[RANKED_SHOWN:],
        "first": sum(row.rank == 1 for row in shown),
        "row_px": ranking_plot.ROW_PX,
        "before": None if facts.before is None else metric(facts.objective.metric, facts.before),
        "caveat": _caveat(facts.rows, facts.objective),
        "summary": f"The mean {_objective_name(facts)} of each setting with its interval, in the "
        "order of the table.",
    }


def _ranking_row(row: RankedSetting, facts: Facts) -> Context:
    return {
        "rank": row.rank,
        "values": [facts.value(key, row.params) for key in facts.keys],
        "mean": metric(facts.objective.metric, row.mean),
        "interval": _spread(row, facts),
        "n": row.n,
        "runs": [score.run.id for score in row.scores],
    }


def _caveat(rows: tuple[RankedSetting, ...], objective: Objective) -> str:
    """What the ranking does not say, where that matters."""
    if len(rows) < 2:
        return ""
    if all(row.n == 1 for row in rows):
        return (
            "Every setting ran once. A bar is the noise of that run’s evaluation; how much another "
            "seed would change, only more seeds can show."
        )
    if rows[0].n == 1:
        return "The first setting ran once; more seeds would show whether that was luck."
    others = [against(rows[0], row, objective) for row in rows[1:]]
    near = sum(other.verdict == "not distinguishable" for other in others)
    alone = sum(other.p is None for other in others)
    words = f"; {plural(alone, 'setting')} ran once, too few to compare" if alone else ""
    if not near:
        return f"The first differs from every other setting (t test, 5%){words}."
    return (
        f"These seeds do not distinguish the first from {plural(near, 'other setting')} "
        f"(t test, 5%){words}."
    )


# --- parameters


def _parameters(facts: Facts, figures: Context) -> Context | None:
    parallel = parameter_plots.parallel_figure(facts)
    if parallel is None:
        return None
    figures["parallel"] = parallel.figure.to_plotly_json()
    keys = facts.keys[: parameter_plots.AXES_SHOWN]
    for key in keys:
        figures[f"slice/{key}"] = parameter_plots.slice_figure(facts, key).to_plotly_json()
    return {
        "keys": keys,
        "left_out": len(facts.keys) - len(keys),
        "best_of": (
            f"The best {parameter_plots.LINES_SHOWN} of {len(facts.rows)} settings."
            if len(facts.rows) > parameter_plots.LINES_SHOWN
            else ""
        ),
        "importance": _importance(facts, figures),
        "filters": list(parallel.values.items()),
        "lines": parallel.lines,
        "objective_name": _objective_name(facts),
    }


def _importance(facts: Facts, figures: Context) -> Context:
    importance = facts.importance
    if importance.shares:
        figure = parameter_plots.importance_figure(importance.shares)
        figures["importance"] = figure.to_plotly_json()
    listed = ", ".join(f"{key} {share:.0%}" for key, share in importance.shares.items())
    return {"shares": listed, "settings": importance.settings, "reason": importance.reason}


# --- time


def _time(facts: Facts, figures: Context, now: datetime) -> Context | None:
    timeline = time_plots.timeline_figure(facts, now)
    if timeline is None:
        return None
    figures["timeline"] = timeline.to_plotly_json()
    best = time_plots.best_so_far_figure(facts)
    if best is not None:
        figures["best"] = best.to_plotly_json()
    return {
        "best": best is not None,
        "unit": time_plots.time_unit(facts.wall_s)[1],
        "zone": time_plots.zone(now),
        "attempts": plural(sum(len(run.attempts) for run in facts.runs), "attempt"),
    }


# --- samples


def _samples(facts: Facts) -> Context | None:
    """What the best and the worst ranked run wrote: to the same held-out rows, and in training."""
    if not facts.scores:
        return None
    chosen = {"Best run": facts.scores[0]}
    if len(facts.scores) > 1:
        chosen["Worst run"] = facts.scores[-1]
    runs = [
        {
            "title": title,
            "id": score.run.id,
            "name": score.run.name,
            "value": metric(facts.objective.metric, score.value),
            "moments": list(_moments(score.run.folder)),
        }
        for title, score in chosen.items()
    ]
    return {"held_out": _held_out(chosen), "runs": runs}


def _held_out(chosen: Mapping[str, Score]) -> list[Context]:
    """Each held-out prompt with what every chosen run answered before and after its training."""
    prompts: dict[str, Context] = {}
    for title, score in chosen.items():
        for pair in read_before_after(score.run.folder):
            shown = prompts.setdefault(
                pair.before.prompt,
                {
                    "prompt": cut(pair.before.prompt, SAMPLE_CHARS),
                    "answer": cut(pair.before.answer, SAMPLE_CHARS),
                    "runs": [],
                },
            )
            moments = {"Before": pair.before, "After": pair.after}
            if pair.before.update == pair.after.update:
                del moments["Before"]
            answers = [
                {"title": when, "at": sample.update, **_sample_cells(sample)}
                for when, sample in moments.items()
            ]
            shown["runs"].append({"title": title, "id": score.run.id, "answers": answers})
    return list(prompts.values())


def _moments(folder: Path) -> Iterable[Context]:
    samples = read_samples(folder)
    for title, found in (("Early", samples.early), ("Late", samples.late)):
        if found:
            shown = [_sample_cells(sample) for sample in found]
            yield {"title": title, "at": found[0].update, "samples": shown}


def _sample_cells(sample: Sample) -> Context:
    parts = [f"{name} {value:g}" for name, value in sample.rewards.items()]
    return {
        "prompt": cut(sample.prompt, SAMPLE_CHARS),
        "completion": cut(sample.completion, SAMPLE_CHARS),
        "answer": cut(sample.answer, SAMPLE_CHARS),
        "reward": "–" if sample.reward is None else f"{sample.reward:g}",
        "parts": " + ".join(parts),
    }


# --- runs


def _run_row(facts: RunFacts, of: Facts) -> Context:
    run = facts.run
    return {
        "id": run.id,
        "name": run.name,
        "state": str(run.state),
        "setting": of.label(run.overrides),
        "values": [of.value(key, run.overrides) for key in of.keys],
        "seed": "–" if run.seed is None else str(run.seed),
        "value": metric(of.objective.metric, run.value),
        "time": duration(run.wall_s or None),
        "tags": ", ".join(run.tags),
        "command": facts.command,
        "attempts": [_attempt_text(attempt) for attempt in facts.attempts],
    }


def _attempt_text(attempt: Attempt) -> str:
    reason = f": {attempt.reason}" if attempt.reason and attempt.outcome != "completed" else ""
    end = attempt.outcome or "running"
    return f"attempt {attempt.n} from {clock(attempt.started)}, {end}{reason}"


def _ill(run: Run, illness: Illness) -> Context:
    return {
        "id": run.id,
        "name": run.name,
        "what": str(illness.code),
        "evidence": illness.evidence,
        "remedy": illness.remedy,
    }


def _not_well(facts: RunFacts) -> Context:
    proof = [attempt.evidence for attempt in facts.attempts if attempt.evidence]
    run = facts.run
    return {
        "id": run.id,
        "name": run.name,
        "state": str(run.state),
        "reason": run.reason or "–",
        "evidence": proof[-1] if proof else "",
    }
