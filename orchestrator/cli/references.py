"""What users name on the command line: runs and sweeps, and what the shell offers for them."""

import contextlib

import click
from click.shell_completion import CompletionItem

from orchestrator.errors import NothingAffected, SweepError, UsageError
from orchestrator.queue.store import Store
from orchestrator.run import Run, Sweep

# More names than this help nobody to choose.
_OFFERED = 100


def open_queue(readonly: bool = False) -> Store:
    """The user's queue."""
    return Store.open(readonly=readonly)


class Ref(click.ParamType[str]):
    """A run's id or name, a range of ids, a sweep's name, or @ for the latest sweep.

    `runs` and `sweeps` say what the shell offers; what is meant is found by the command.
    """

    name = "ref"

    def __init__(self, runs: bool = False, sweeps: bool = True) -> None:
        self._runs = runs
        self._sweeps = sweeps

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The sweeps and the runs that begin so; of very many runs the latest."""

        items: list[CompletionItem] = []
        # Who is typing cannot do anything about a queue that cannot be read.
        with contextlib.suppress(SweepError), Store.open(readonly=True) as store:
            if self._sweeps:
                names = [sweep.name for sweep in store.queries.sweeps(all=True)]
                items += [
                    CompletionItem(n, help="sweep") for n in names if n.startswith(incomplete)
                ]
            for run_id, name in store.status.named_like(incomplete, _OFFERED) if self._runs else []:
                by_id = incomplete and str(run_id).startswith(incomplete)
                value, other = (str(run_id), name) if by_id else (name, f"run {run_id}")
                items.append(CompletionItem(value, help=other))
        return items


def complete_swept(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The parameters that the runs of the named (else the latest) sweep set."""

    names: list[str] = []
    with contextlib.suppress(SweepError), Store.open(readonly=True) as store:
        names = store.status.keys_of(
            store.queries.sweep(str(context.params.get("sweep") or "@")).id
        )
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def find_all(store: Store, refs: tuple[str, ...]) -> list[Run]:
    """The runs that some references mean, each once, in their order."""
    found = {run.id: run for ref in refs for run in store.queries.find_runs(ref)}
    return list(found.values())


def only_sweep(store: Store, ref: str) -> Sweep | None:
    """The sweep that `ref` names as such; None where it means runs by number or name."""
    if ref.replace("-", "").isdigit():
        return None
    try:
        return store.queries.sweep(ref)
    except NothingAffected:
        if store.queries.runs_named(ref):
            return None
        raise


def one_run(store: Store, ref: str) -> Run:
    """The single run that `ref` means; UsageError where it means several."""
    runs = store.queries.find_runs(ref)
    if len(runs) != 1:
        ids = ", ".join(str(run.id) for run in runs[:8]) + (", …" if len(runs) > 8 else "")
        raise UsageError(f"{ref}: {len(runs)} runs; name one of them: {ids}")
    return runs[0]
