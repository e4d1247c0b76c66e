"""`rm` and `backup`: what is done to the queue as a whole and to the files that runs leave."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from orchestrator.cli.output import say
from orchestrator.cli.references import Ref, find_all, open_queue
from orchestrator.errors import NothingAffected
from orchestrator.run import Run
from orchestrator.system.output_folders import delete_run

# What is asked about is listed, but not by the thousand.
_LISTED = 5


@click.command(
    epilog="REF is a run's id, a range such as 3-7, a sweep's name, or @ for the latest sweep."
)
@click.argument("refs", nargs=-1, required=True, metavar="REF...", type=Ref(runs=True))
@click.option("--files", is_flag=True, help="Delete what they wrote too, after asking.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(refs: tuple[str, ...], files: bool, yes: bool) -> None:
    """Forget runs; their output folders stay, unless --files is given.

    With --files what the trainer wrote is deleted and nothing else: other files stay, and so does
    a folder in which a trainer is at work or that holds another run. A run whose folder is not
    there, as on a disk that is not mounted, is kept.

    \b
    Examples:
      grpo-sweep rm lr
      grpo-sweep rm 3-7 --files
    """
    with open_queue() as store:
        runs = find_all(store, refs)
        if files:
            runs = _with_their_files(runs)
            if not yes:
                _ask(runs)
        gone = store.control.remove([run.id for run in runs])
        shared = store.queries.shown_elsewhere([run.folder for run in gone])
    one = f"run {gone[0].id} {gone[0].name}: forgotten"
    say(one if len(gone) == 1 else f"{len(gone)} runs forgotten")
    if files:
        _delete(gone, shared)


def _with_their_files(runs: Sequence[Run]) -> list[Run]:
    """Those whose files can be deleted now; forgotten, the others' would stay for ever.

    NothingAffected where that is none.
    """
    away = [run for run in runs if run.attempt and not run.folder.exists()]
    for run in away:
        say(
            f"run {run.id} {run.name} is kept: {run.folder} is not there; if it lies on another "
            f"disk, mount that, else forget the run with: grpo-sweep rm {run.id}"
        )
    kept = {run.id for run in away}
    if away and len(kept) == len(runs):
        raise NothingAffected("nothing was removed")
    return [run for run in runs if run.id not in kept]


def _ask(runs: Sequence[Run]) -> None:
    """Go on only after a yes; Abort otherwise."""
    folders = [run.folder for run in runs if run.folder.exists()]
    for folder in folders[:_LISTED]:
        say(f"  {folder}")
    if len(folders) > _LISTED:
        say(f"  … and {len(folders) - _LISTED} more")
    words = f"Delete what runs have written in {len(folders)} output folders for good?"
    click.confirm(words, abort=True, err=True)


def _delete(runs: Iterable[Run], shared: set[Path]) -> None:
    """Delete what these runs have written; each folder that stays is named, and why."""
    deleted = 0
    for run in runs:
        if run.folder in shared:
            why = "shown by a run of another sweep"
        elif run.attempt == 0 and not run.folder.exists():
            continue  # Nothing was ever written.
        else:
            why = delete_run(run.folder, run.hash)
        if why:
            say(f"{run.folder}: stays: {why}")
        else:
            deleted += 1
    say(f"{deleted} output folders deleted")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Write a whole copy of the queue to FILE; safe while a worker works.

    Copying queue.db by hand is not: what was written last may lie beside it.

    \b
    Examples:
      grpo-sweep backup queue-monday.db
    """
    with open_queue(readonly=True) as store:
        store.backup(file)
    say(f"{file}: a copy of the queue; to use it, put it into a folder as queue.db")
