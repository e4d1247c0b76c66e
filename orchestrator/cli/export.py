"""`grpo-sweep export`: the runs of a sweep as files for other programs, or in other tools."""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.facts import read_facts
from orchestrator.cli.output import busy, say
from orchestrator.cli.references import Ref, open_queue
from orchestrator.cli.trackers import send_sweep, tracker_options
from orchestrator.errors import NothingAffected, SweepError, UsageError
from orchestrator.report.png import pictures
from orchestrator.results import export as formats
from orchestrator.results.export import record
from orchestrator.system.files import check_target, make_folder, write_target
from orchestrator.text import plural
from orchestrator.trackers.targets import Target
from orchestrator.views.overview import progress_of

_file = click.Path(path_type=Path, allow_dash=True)
_path = click.Path(path_type=Path)


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option("--csv", "to_csv", type=_file, metavar="FILE", help="CSV; - for stdout.")
@click.option("--jsonl", "to_jsonl", type=_file, metavar="FILE", help="JSON lines; - for stdout.")
@click.option("--parquet", "to_parquet", type=_file, metavar="FILE", help="Parquet.")
@click.option("--png", "to_png", type=_file, metavar="DIR", help="Plots as PNG files.")
@click.option("--optuna", "to_optuna", type=_path, metavar="FILE", help="For optuna-dashboard.")
@tracker_options
def export(
    sweep: str,
    to_csv: Path | None,
    to_jsonl: Path | None,
    to_parquet: Path | None,
    to_png: Path | None,
    to_optuna: Path | None,
    targets: list[Target],
) -> None:
    """Write the runs of a SWEEP (default: the latest) as data, a row a run; or send them to a tool.

    Without an option: CSV to stdout. Several options do several things. What a tool or a journal of
    Optuna has already is not sent again: do it as often as you like, also while the sweep runs.

    \b
    Examples:
      grpo-sweep export lr > lr.csv
      grpo-sweep export lr --parquet lr.parquet --png notes/plots
      grpo-sweep export lr --tensorboard runs
      WANDB_MODE=offline grpo-sweep export lr --wandb my-project
      grpo-sweep export lr --optuna lr.journal && optuna-dashboard lr.journal
    """
    chosen: list[tuple[Path | None, Callable[[Sequence[dict[str, Any]]], bytes]]] = [
        (to_csv, formats.to_csv),
        (to_jsonl, formats.to_jsonl),
        (to_parquet, formats.to_parquet),
    ]
    files = [(path, write) for path, write in chosen if path is not None]
    if not (files or to_png or to_optuna or targets):
        files = [(_STDOUT, formats.to_csv)]
    _check_files([path for path, _ in files])
    records = _records(sweep) if files else []
    tasks: list[Callable[[], None]] = [partial(_put_records, *file, records) for file in files]
    if to_png is not None:
        tasks.append(partial(_export_pictures, sweep, to_png))
    if to_optuna is not None:
        tasks.append(partial(_export_journal, sweep, check_target(to_optuna)))
    tasks += [partial(send_sweep, sweep, target) for target in targets]
    _do_all(tasks)


def _do_all(tasks: Sequence[Callable[[], None]]) -> None:
    """Do each; what needs a package that is not there keeps nothing else back."""
    faults: list[SweepError] = []
    for task in tasks:
        try:
            task()
        except NothingAffected:
            raise
        except SweepError as e:
            faults.append(e)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise UsageError("\n".join(map(str, faults)))


_STDOUT = Path("-")


def _check_files(paths: Sequence[Path]) -> None:
    if paths.count(_STDOUT) > 1:
        raise UsageError("stdout can take one format; give the others a file")
    for path in paths:
        if path != _STDOUT:
            check_target(path)


def _records(ref: str) -> list[dict[str, Any]]:
    with open_queue(readonly=True) as store, busy("reading the runs"):
        sweep = store.queries.sweep(ref)
        runs = store.queries.runs(sweep.id)
        return [record(run, progress_of(run), sweep.objective) for run in runs]


def _put_records(
    path: Path, write: Callable[[Sequence[dict[str, Any]]], bytes], records: list[dict[str, Any]]
) -> None:
    _put(path, write(records))


def _put(path: Path, content: bytes) -> None:
    """To stdout, or into a file whose name is then the output."""
    if path == _STDOUT:
        sys.stdout.flush()
        if sys.stdout.isatty():
            sys.stdout.write(content.decode(errors="replace"))
        else:
            sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        write_target(path, content)
        print(path)


def _export_journal(ref: str, path: Path) -> None:
    # Not at the top: what reads the spec again is needed for this alone.
    from orchestrator.trackers.journal import write_journal

    with open_queue(readonly=True) as store:
        sweep = store.queries.sweep(ref)
        runs = store.queries.runs(sweep.id)
    with busy("writing the journal"):
        changed = write_journal(path, sweep, runs)
    print(path)
    say(f"{plural(len(runs), 'trial')}, {changed} new or changed; optuna-dashboard {path}")


def _export_pictures(ref: str, folder: Path) -> None:
    (facts,), _ = read_facts((ref,), lambda _: make_folder(folder))
    with busy("drawing"):
        found = list(pictures(facts))
    if not found:
        raise NothingAffected(f"sweep {facts.sweep.name}: no run has logged anything to draw yet")
    for name, content in found:
        _put(folder / name, content)
