"""`grpo-sweep report`: a sweep, or several, as a page."""

from datetime import UTC, datetime
from pathlib import Path

import click

from orchestrator.cli.facts import read_facts
from orchestrator.cli.output import busy, say
from orchestrator.cli.references import Ref
from orchestrator.report.gather import Facts
from orchestrator.report.several import other_objectives, together
from orchestrator.system.files import check_target, write_target
from orchestrator.text import counts, plural


@click.command()
@click.argument("sweeps", type=Ref(), nargs=-1, metavar="[SWEEP]...")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: SWEEP-report.html here; in a folder, under that name.",
)
@click.option("--open", "to_open", is_flag=True, help="Show it in the browser.")
def report(sweeps: tuple[str, ...], output: Path | None, to_open: bool) -> None:
    """Write one HTML file about a SWEEP (default: the latest) that opens without a network.

    Ranking with intervals, learning curves, parameters, time, completions, spec and commands.
    Several sweeps stand on one page, ranked together by the objective of the first.

    \b
    Examples:
      grpo-sweep report
      grpo-sweep report lr -o notes/lr.html --open
      grpo-sweep report lr lr-2
    """
    # Not at the top: plotly takes its time, and export does without it.
    from orchestrator.report.page import page

    found, path = read_facts(sweeps or ("@",), lambda name: check_target(_html_path(output, name)))
    facts = together(found) if len(found) > 1 else found[0]
    first = found[0].sweep
    for other in other_objectives(found):
        say(
            f"{other.name} is ranked by {first.objective.metric} here, as {first.name} is; "
            f"its own objective is {other.objective.metric}"
        )
    with busy("drawing the page"):
        html = page(facts, datetime.now(UTC)).encode()
    write_target(path, html)
    print(path)
    say(_summary(facts, len(html)))
    if to_open:
        click.launch(path.absolute().as_uri())


def _html_path(output: Path | None, name: str) -> Path:
    default = f"{name}-report.html"
    if output is None:
        return Path(default)
    return output / default if output.is_dir() else output


def _summary(facts: Facts, size: int) -> str:
    """`200 runs, 8.3 MB`, and what a reader should know."""
    words = f"{plural(len(facts.runs), 'run')}, {size / 1e6:.1f} MB"
    if facts.rows:
        return words
    metric = facts.objective.metric
    return f"{words}; no run has a value of {metric} yet: {counts(facts.sweep.counts)}"
