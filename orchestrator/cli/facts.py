"""Everything about a sweep, read with a bar for a person at a terminal."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from orchestrator.cli.output import console
from orchestrator.cli.references import open_queue
from orchestrator.report.gather import Facts, gather
from orchestrator.system.paths import home


def read_facts(
    refs: Sequence[str], choose: Callable[[str], Path]
) -> tuple[tuple[Facts, ...], Path]:
    """Everything about some sweeps, and where it goes: that is settled before the long reading.

    `choose` is given the names of the sweeps.
    """
    with open_queue(readonly=True) as store:
        found = list({sweep.id: sweep for sweep in map(store.queries.sweep, refs)}.values())
        path = choose("-".join(sweep.name for sweep in found))
        with _progress(sum(sum(sweep.counts.values()) for sweep in found)) as step:
            return tuple(gather(store, sweep, home(), step) for sweep in found), path


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
