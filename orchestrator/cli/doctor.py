"""`grpo-sweep doctor`: is this machine fit to train, and what to do where it is not."""

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json
from orchestrator.deep_doctor import measure
from orchestrator.deep_judgement import Mark, Row
from orchestrator.doctor import Finding, Severity, examine
from orchestrator.system.paths import home


@click.command()
@json_option
@click.option("--deep", is_flag=True, help="Measure for five minutes; one JSON to send back.")
def doctor(as_json: bool, deep: bool) -> int:
    """Check this machine: versions, memory, disk, queue, device, and a real training step.

    Takes some seconds and changes nothing. Exits with 1 if something is in the way of training.
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
    if as_json:
        print_json({"checks": [_shape(finding) for finding in findings]})
    return 1 if any(finding.severity is Severity.FAIL for finding in findings) else 0


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
