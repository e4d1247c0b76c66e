"""`grpo-sweep report`: a sweep as a page."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from orchestrator.cli.output import busy, console, say
from orchestrator.cli.references import Ref, open_queue
from orchestrator.report.gather import Facts, gather
from orchestrator.system.files import check_target, write_target
from orchestrator.system.paths import home
from orchestrator.text import counts, plural


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Default: SWEEP-report.html here; in a folder, under that name.",
)
@click.option("--open", "to_open", is_flag=True, help="Show it in the browser.")
def report(sweep: str, output: Path | None, to_open: bool) -> None:
    """Write one HTML file about a SWEEP (default: the latest) that opens without a network.

    Ranking with intervals, learning curves, parameters, time, completions, spec and commands.

    \b
    Examples:
      grpo-sweep report
      grpo-sweep report lr -o notes/lr.html --open
    """
    # Not at the top: plotly takes its time, and export does without it.
    from orchestrator.report.page import page

    facts, path = read_facts(sweep, lambda name: check_target(_html_path(output, name)))
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


def read_facts(ref: str, choose: Callable[[str], Path]) -> tuple[Facts, Path]:
    """Everything about the sweep, and where it goes: that is settled before the long reading."""
    with open_queue(readonly=True) as store:
        found = store.queries.sweep(ref)
        path = choose(found.name)
        with _progress(sum(found.counts.values())) as step:
            return gather(store, found, home(), step), path


@contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar over the runs, for a person at a terminal."""
    out = console(stderr=True)
    if not out.is_terminal:
        yield lambda: None
        return
    # Not at the top: in a pipe there is no bar.
    from rich.progress import Progress

    with Progress(console=out, transient=True) as bar:
        task = bar.add_task("reading runs", total=total)
        yield lambda: bar.advance(task)


def _summary(facts: Facts, size: int) -> str:
    """`200 runs, 8.3 MB`, and what a reader should know."""
    words = f"{plural(len(facts.runs), 'run')}, {size / 1e6:.1f} MB"
    if facts.rows:
        return words
    metric = facts.objective.metric
    return f"{words}; no run has a value of {metric} yet: {counts(facts.sweep.counts)}"
