"""The options that say how many runs a worker trains at a time, and where: `work`, `service`."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import click

from orchestrator.worker.slots import MOST_SLOTS, Slots

F = TypeVar("F", bound=Callable[..., Any])


def slots_options(command: F) -> F:
    """`--slots`, `--devices`: one argument `slots`, None where neither is given."""

    @functools.wraps(command)
    def with_slots(*args: Any, count: int | None, devices: str | None, **others: Any) -> Any:
        given = count is not None or devices is not None
        return command(*args, slots=Slots.parse(count, devices) if given else None, **others)

    options = (
        click.option(
            "--slots",
            "count",
            metavar="N",
            type=click.IntRange(1, MOST_SLOTS),
            help="Train so many runs at a time on this machine, its cores shared out.",
        ),
        click.option(
            "--devices",
            metavar="ID,ID",
            help="Train a run at a time on each of these CUDA devices, such as 0,1.",
        ),
    )
    for option in reversed(options):
        with_slots = option(with_slots)
    return with_slots  # type: ignore[return-value]
