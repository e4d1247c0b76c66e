"""Options that several commands have."""

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

F = TypeVar("F", bound=Callable[..., Any])


def json_option(command: F) -> F:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def metric_option(command: F) -> F:
    """`--metric KEY`."""
    return click.option(
        "--metric", metavar="KEY", help="Judge by this key of the log, for once, not the objective."
    )(command)


def later_option(command: F) -> F:
    """`--later`."""
    words = "Queue also what reads files that are still to come."
    return click.option("--later", is_flag=True, help=words)(command)


def set_option(command: F) -> F:
    """`--set key=value`, any number of times."""
    return click.option(
        "--set",
        "overrides",
        metavar="KEY=VALUE",
        multiple=True,
        shell_complete=complete_field,
        help="Override a config field; repeat for more.",
    )(command)


def complete_field(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The fields whose names begin so, each with `=` behind it."""
    # Not at the top: only completion needs it, and a status comes sooner.
    from grpo_core.config import FIELDS

    return [
        CompletionItem(f"{name}=", help=info.help)
        for name, info in FIELDS.items()
        if name.startswith(incomplete)
    ]
