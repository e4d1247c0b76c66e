"""What a worker sees of another machine: a few calls, whatever carries them.

A node trains what it is ordered to, and keeps the files of each attempt until the head has them.
The head asks, the node answers: so a node that sleeps, is cut off, or comes back late can change
nothing by itself. An attempt is known by its token, which the head drew when it claimed the run; a
node that still holds an older attempt of the run is told to end it.

Nothing is decided by a node's clock: it says durations, and the head stamps what it receives.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from orchestrator.errors import SweepError

# What a node may be called. A number alone is a slot of the head's own machine.
NODE_NAME = re.compile(r"(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

# The largest piece of a file that one call carries: over a slow line other calls wait behind it.
PIECE_BYTES = 2**20


class NodeAway(SweepError):
    """A node did not answer: it may be dead, asleep, cut off, or only slow."""


class NodeRefused(SweepError):
    """A node answered that it cannot or will not; the message says why, and what to try."""


class Wish(StrEnum):
    """How the head wants a trainer to end; as the methods of `launcher.Trainer`."""

    INTERRUPT = "interrupt"
    TERMINATE = "terminate"
    KILL = "kill"


@dataclass(frozen=True)
class NodeFacts:
    """What a node says of itself when it joins."""

    name: str
    slots: tuple[str, ...]
    """The names of its slots; on the head they are called `NAME/SLOT`."""
    version: str
    """Of grpo-sweep; `mlx` of mlx. The head takes no node whose versions differ from its own."""
    mlx: str
    backend: str
    """`metal`, `cuda` or `cpu`."""
    host: str
    boot_id: str
    memory_bytes: int
    """What a trainer there may use, for one of its slots."""
    disk_free_bytes: int
    clock: str
    """Its time, ISO 8601 in UTC: only to tell the user that it is wrong."""


@dataclass(frozen=True)
class Input:
    """A file that the trainer reads: where the run's configuration expects it, and what it holds.

    `path` is as the configuration names it, seen from the run's working folder: relative, beginning
    with `../`, `/` or `~/`. A node lays all such files out below a folder of its own. `sha256` in
    hexadecimal.
    """

    path: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Order:
    """All that a node needs to know to carry out an attempt."""

    token: str
    run: str
    """The run's name across queues: the same for each of its attempts."""
    n: int
    slot: str
    cwd: str
    """The folder from which the run was submitted, as the head names it: absolute, with `/`."""
    output_dir: str
    """As the configuration of the run has it."""
    config_text: str
    set: tuple[str, ...]
    """The overrides, as `--set` takes them, in order."""
    halvings: int = 0
    inputs: tuple[Input, ...] = ()
    """The files that the trainer reads; all were put there before."""
    files: tuple[Input, ...] = ()
    """What the output folder holds when the attempt begins (checkpoint, logs), put there before;
    a path is relative to the output folder."""
    python_path: tuple[str, ...] = ()
    """The folders from which rewards import; named as an input is."""
    packages: Mapping[str, str] = field(default_factory=dict)
    """What the run is computed with, and the version of each: a node with others refuses it."""
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Held:
    """An attempt of which a node still holds files, or a process."""

    token: str
    run: str
    n: int
    slot: str
    running: bool


@dataclass(frozen=True)
class FileState:
    """A file of an attempt on its node; what is not `whole` yet only grows at its end."""

    path: str
    """Relative to the output folder, with `/`; the attempt's own log is `ATTEMPT_LOG`."""
    size: int
    version: int
    """Another one where the file was replaced, not grown: then it is read from its start again."""
    whole: bool
    sha256: str | None = None
    """Of files that are whole; None while it only grows."""


@dataclass(frozen=True)
class AttemptReport:
    """How an attempt stands; where it ended with neither code nor signal, nobody collected it."""

    running: bool
    pid: int | None
    exit_code: int | None
    signal: int | None
    memory: str | None
    """What shows, after its end, that the system there was out of memory."""
    waits: str | None
    """Why its trainer does not compute yet (another program holds the GPU's lock)."""
    age_s: float
    """How long the attempt has run, by the node's own clock (monotonic)."""
    quiet_s: float
    """How long neither the output of its trainer nor its training log has changed."""
    files: tuple[FileState, ...]
    """Those of its output folder, checkpoints only once they are whole; all after the end."""


# The path under which an attempt's stdout and stderr travel, beside the files of its output folder.
ATTEMPT_LOG = "@attempt.log"


class Node(Protocol):
    """A machine with slots. Every call may raise NodeAway; a call that was made twice does no harm.

    All calls return within seconds.
    """

    name: str

    def facts(self) -> NodeFacts:
        """What it says of itself just now."""

    def held(self) -> Sequence[Held]:
        """The attempts that it still holds: what a head that comes back takes over."""

    def lacks(self, inputs: Sequence[Input]) -> Sequence[Input]:
        """Those of the files that it does not have yet, by their content."""

    def put(self, file: Input, offset: int, data: bytes) -> None:
        """Take a piece of a file into the store by content; the last one is checked by its sum.

        NodeRefused where the sum differs, the disk is full, or the offset leaves a gap.
        """

    def start(self, order: Order) -> None:
        """Start the trainer of an attempt.

        Does nothing where that attempt was started before. NodeRefused where an attempt of the run
        or of the slot still runs, where files are lacking, or no process can be made.
        """

    def look(self, token: str) -> AttemptReport:
        """How an attempt stands; NodeRefused where the node knows no such token."""

    def read(self, token: str, path: str, offset: int, size: int) -> bytes:
        """A piece of a file of an attempt, from the offset; shorter at its end."""

    def ask(self, token: str, wish: Wish) -> None:
        """End the trainer of an attempt in that way; nothing where it has ended."""

    def forget(self, token: str) -> None:
        """End what still runs of an attempt, at once, and delete its files."""


class Nodes(Protocol):
    """The machines that have joined, as the worker asks for them now and then."""

    def __iter__(self) -> Iterator[Node]:
        """Those that are there just now; one that went away is no longer among them.

        NodeAway where that cannot be told: then none is.
        """


AWAY_S = 600.0


@dataclass(frozen=True)
class Cluster:
    """The machines beside its own on which a worker trains, and what it was told about them."""

    nodes: Nodes
    away_s: float = AWAY_S
    """How long a node may not answer until its run is given to another slot."""
    other_gpu: bool = False
    """Let a run go on on a CUDA GPU that began on a Mac's, and the other way round: bits differ."""
