"""What a worker reports as it goes: events, for the terminal and for notices."""

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.run import Progress, Run


@dataclass(frozen=True)
class Event:
    """Something that the worker did or saw.

    `kind` is asked, changed, started, adopted, progress, prepared, stopping, ended, waiting, empty
    or stopped.
    """

    kind: str
    text: str
    run: Run | None = None
    progress: Progress | None = None


Listener = Callable[[Event], None]
