"""`grpo-sweep export`: the runs of a sweep as data for other programs."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.output import busy
from orchestrator.cli.references import Ref, open_queue
from orchestrator.cli.report import read_facts
from orchestrator.errors import NothingAffected, UsageError
from orchestrator.report.png import pictures
from orchestrator.results import export as formats
from orchestrator.results.export import record
from orchestrator.system.files import check_target, make_folder, write_target
from orchestrator.views.overview import progress_of

_file = click.Path(path_type=Path, allow_dash=True)


@click.command()
@click.argument("sweep", type=Ref(), default="@")
@click.option("--csv", "to_csv", type=_file, metavar="FILE", help="CSV; - for stdout.")
@click.option("--jsonl", "to_jsonl", type=_file, metavar="FILE", help="JSON lines; - for stdout.")
@click.option("--parquet", "to_parquet", type=_file, metavar="FILE", help="Parquet.")
@click.option("--png", "to_png", type=_file, metavar="DIR", help="Plots as PNG files.")
def export(
    sweep: str,
    to_csv: Path | None,
    to_jsonl: Path | None,
    to_parquet: Path | None,
    to_png: Path | None,
) -> None:
    """Write the runs of a SWEEP (default: the latest) as data, a row a run.

    Without an option: CSV to stdout. Several options write several files.

    \b
    Examples:
      grpo-sweep export lr > lr.csv
      grpo-sweep export lr --parquet lr.parquet --png notes/plots
    """
    chosen: list[tuple[Path | None, Callable[[Sequence[dict[str, Any]]], bytes]]] = [
        (to_csv, formats.to_csv),
        (to_jsonl, formats.to_jsonl),
        (to_parquet, formats.to_parquet),
    ]
    targets = [(path, write) for path, write in chosen if path is not None]
    if not targets and to_png is None:
        targets = [(_STDOUT, formats.to_csv)]
    _check_targets([path for path, _ in targets])
    records = _records(sweep) if targets else []
    faults = []
    for path, write in targets:
        try:
            _put(path, write(records))
        except UsageError as e:  # What needs a package that is not there keeps nothing else back.
            faults.append(str(e))
    if to_png is not None:
        try:
            _export_pictures(sweep, to_png)
        except UsageError as e:
            faults.append(str(e))
    if faults:
        raise UsageError("\n".join(faults))


_STDOUT = Path("-")


def _check_targets(paths: Sequence[Path]) -> None:
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


def _export_pictures(ref: str, folder: Path) -> None:
    facts, _ = read_facts(ref, lambda _: make_folder(folder))
    with busy("drawing"):
        found = list(pictures(facts))
    if not found:
        raise NothingAffected(f"sweep {facts.sweep.name}: no run has logged anything to draw yet")
    for name, content in found:
        _put(folder / name, content)
