"""`grpo-sweep doctor`: is this machine fit to train, and what to do where it is not."""

from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json
from orchestrator.doctor import Finding, Severity, examine
from orchestrator.system.paths import home


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine: versions, memory, disk, queue, device, and a real training step.

    Takes some seconds and changes nothing. Exits with 1 if something is in the way of training.
    """
    out = console()
    findings = []
    for finding in examine(home(), Path.cwd()):
        findings.append(finding)
        if not as_json:
            _print(finding, out)
    if as_json:
        print_json({"checks": [_shape(finding) for finding in findings]})
    return 1 if any(finding.severity is Severity.FAIL for finding in findings) else 0


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
