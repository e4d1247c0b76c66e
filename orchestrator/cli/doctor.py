"""`grpo-sweep doctor`: is this machine fit to train, and what to do where it is not."""

import sys
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json
from orchestrator.deep_doctor import measure
from orchestrator.deep_judgement import Mark, Row
from orchestrator.doctor import Finding, Severity, examine, try_notice
from orchestrator.system.paths import home


@click.command()
@json_option
@click.option("--deep", is_flag=True, help="Measure for five minutes; one JSON to send back.")
@click.option(
    "--notice/--no-notice",
    default=None,
    help="Give a notice, as a worker would; in a terminal it asks whether it came."
    "  [default: in a terminal]",
)
def doctor(as_json: bool, deep: bool, notice: bool | None) -> int:
    """Check this machine: versions, memory, disk, queue, device, and a real training step.

    Takes some seconds and changes nothing. In a terminal, and with --notice, it also gives a notice
    as a worker would at the end of a sweep. Exits with 1 if something is in the way of training.
    With --deep it measures what only this machine can answer (docs/mac.md), on the embedded model,
    with the display on; --json prints that without paths or names.
    """
    if deep:
        return _deep(as_json)
    out = console()
    findings = []
    for finding in examine(home(), Path.cwd()):
        findings.append(finding)
        if not as_json:
            _print(finding, out)
    found = _try_notice(notice, as_json)
    if found is not None:
        findings.append(found)
        if not as_json:
            _print(found, out)
    if as_json:
        print_json({"checks": [_shape(finding) for finding in findings]})
    return 1 if any(finding.severity is Severity.FAIL for finding in findings) else 0


def _try_notice(wanted: bool | None, as_json: bool) -> Finding | None:
    """Where it is wanted, or there is somebody to ask who has not said no."""
    can_ask = not as_json and sys.stdin.isatty() and sys.stderr.isatty()
    if not (can_ask if wanted is None else wanted):
        return None
    ask = partial(click.confirm, "A notice was given. Did you see it?", err=True)
    return try_notice(ask if can_ask else None)


def _deep(as_json: bool) -> int:
    out = console()
    rows = []
    for row in measure():
        rows.append(row)
        if not as_json:
            _print_row(row, out)
    if as_json:
        print_json({"deep": 1, "rows": [row.shape for row in rows]})
    return 1 if any(row.verdict is Mark.BAD for row in rows) else 0


def _print_row(row: Row, out: Console) -> None:
    styles = {"ok": "green", "odd": "bold yellow", "bad": "bold red", "none": "dim"}
    line = Text.assemble(
        (f"{row.verdict:<5}", styles[row.verdict]), (f"{row.name}: ", "bold"), row.text
    )
    out.print(line, soft_wrap=True)


def _shape(finding: Finding) -> dict[str, str | None]:
    return {
        "name": finding.name,
        "level": str(finding.severity),
        "text": finding.text,
        "advice": finding.advice or None,
    }


def _print(finding: Finding, out: Console) -> None:
    styles = {"ok": "green", "warn": "bold yellow", "fail": "bold red"}
    line = Text.assemble(
        (f"{finding.severity:<5}", styles[finding.severity]),
        (f"{finding.name:<18}", "bold"),
        finding.text,
    )
    out.print(line, soft_wrap=True)
    if finding.advice:
        out.print(Text(f"{'':<5}{'':<18}→ {finding.advice}"), soft_wrap=True)
