"""Everything about a sweep, read with a bar for a person at a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cli.output import console
from orchestrator.cli.references import open_queue
from orchestrator.report.gather import Facts, gather
from orchestrator.system.paths import home


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
