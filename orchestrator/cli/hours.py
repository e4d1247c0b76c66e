"""The options that say when a worker may train: `work` and `service install` have them."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.errors import UsageError
from orchestrator.system.power import can_tell_idle
from orchestrator.worker.hours import Hours, Window

F = TypeVar("F", bound=Callable[..., Any])


def hours_options(command: F) -> F:
    """`--between`, `--on-power`, `--when-idle`: one argument `hours`."""

    @functools.wraps(command)
    def with_hours(
        *args: Any, between: str | None, on_power: bool, when_idle: float | None, **others: Any
    ) -> Any:
        if when_idle is not None and not can_tell_idle():
            raise UsageError("--when-idle: only macOS tells how long a machine has been idle")
        window = None if between is None else Window.parse(between)
        return command(*args, hours=Hours(window, on_power, when_idle), **others)

    options = (
        click.option(
            "--between",
            metavar="HH:MM-HH:MM",
            help="Train between these times of day only, such as 22:00-08:00.",
        ),
        click.option("--on-power", is_flag=True, help="Do not train on the battery."),
        click.option(
            "--when-idle",
            metavar="MINUTES",
            type=click.FloatRange(min=0, min_open=True),
            help="Train while nobody has used the Mac for so long.",
        ),
    )
    for option in reversed(options):
        with_hours = option(with_hours)
    return with_hours  # type: ignore[return-value]
