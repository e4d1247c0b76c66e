"""What a worker reports as it goes, to whoever listens."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.run import Progress, Run


class EventKind(StrEnum):
    """What a worker did or saw."""

    SUGGESTED = "suggested"
    CHANGED = "changed"
    STARTED = "started"
    ADOPTED = "adopted"
    PROGRESS = "progress"
    PREPARED = "prepared"
    SLOWED = "slowed"
    STOPPING = "stopping"
    ENDED = "ended"
    WAITING = "waiting"
    EMPTY = "empty"
    STOPPED = "stopped"


@dataclass(frozen=True)
class Event:
    """Something that the worker did or saw, of a run or of the whole queue."""

    kind: EventKind
    text: str
    run: Run | None = None
    progress: Progress | None = None


Listener = Callable[[Event], None]
