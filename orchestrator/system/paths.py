"""Every file name that the orchestrator knows: the queue's home, and a run's output folder.

Nothing here reads or writes a file's content; what lies in an output folder is written by the
trainer (docs/run-folder.md).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from grpo_core.run import protocol
from orchestrator.errors import QueueError
from orchestrator.run import FIRST_SLOT

ENV_HOME = "GRPO_SWEEP_HOME"
APP = "grpo-sweep"


@dataclass(frozen=True)
class Home:
    """The folder that holds a queue: database, locks, frozen configs and logs of attempts."""

    root: Path

    @property
    def db(self) -> Path:
        """The SQLite file; open it through SQLite only, never by itself."""
        return self.root / "queue.db"

    @property
    def worker_lock(self) -> Path:
        """Held (flock) by the one worker of this queue; its text says who holds it."""
        return self.root / "locks" / "worker.lock"

    def run_lock(self, run_id: int) -> Path:
        """Held (flock) by the trainer of the run, from before its start until its death."""
        return self.root / "locks" / f"run-{run_id}.lock"

    @property
    def worker_log(self) -> Path:
        """What a detached worker says."""
        return self.root / "worker.log"

    @property
    def reports_log(self) -> Path:
        """What the tools print that runs are reported to."""
        return self.root / "reports.log"

    @property
    def cluster_key(self) -> Path:
        """What lets a machine into the cluster whose scheduler this home has started."""
        return self.root / "cluster" / "key.pem"

    @property
    def cluster_lock(self) -> Path:
        """Held (flock) by the one scheduler of this home; its text says where it listens."""
        return self.root / "locks" / "cluster.lock"

    @property
    def cluster_log(self) -> Path:
        """What a scheduler in the background says, and what its engine reports."""
        return self.root / "cluster" / "scheduler.log"

    def node_folder(self, name: str) -> Path:
        """Where a node of that name keeps the files of its attempts."""
        return self.root / "nodes" / name

    def node_lock(self, name: str) -> Path:
        """Held (flock) by the one process that is the node of that name."""
        return self.root / "locks" / f"node-{name}.lock"

    def node_log(self, name: str) -> Path:
        """What a node in the background says, and what its engine reports."""
        return self.root / "logs" / f"node-{name}.log"

    def frozen_config(self, sweep_id: int) -> Path:
        """The base config as it was at submit; the database holds the original."""
        return self.root / "configs" / f"sweep-{sweep_id}.toml"

    def attempt_log(self, run_id: int, n: int) -> Path:
        """Stdout and stderr of the n-th attempt of a run."""
        return self.root / "logs" / f"run-{run_id}-{n}.log"

    def standby_log(self, slot: str) -> Path:
        """What the standby of a slot says, until its turn makes it an attempt's log."""
        name = "standby" if slot == FIRST_SLOT else f"standby-{slot.replace('/', '_')}"
        return self.root / "logs" / f"{name}.log"

    def make(self) -> "Home":
        """The same home with its folders there, readable by their owner only; QueueError."""
        try:
            for folder in (self.root, *(self.root / n for n in ("locks", "configs", "logs"))):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as e:
            raise QueueError(
                f"{e.filename or self.root}: the queue's home cannot be made: {e.strerror}; "
                f"set {ENV_HOME} to a folder that you can write to"
            ) from None
        return self


def home(env: Mapping[str, str] = os.environ) -> Home:
    """The user's home of the queue: GRPO_SWEEP_HOME, else the user's data folder. Makes nothing."""
    if named := env.get(ENV_HOME):
        return Home(Path(os.path.expanduser(named)).absolute())
    # Not at the top: where the home is named it is not needed, and a status comes sooner.
    import platformdirs

    return Home(Path(platformdirs.user_data_dir(APP, appauthor=False)))


@dataclass(frozen=True)
class RunPaths:
    """The names inside a run's output folder, as the trainer writes them."""

    folder: Path

    @property
    def resolved_config(self) -> Path:
        """Every field of the final configuration, with versions and hash."""
        return self.folder / protocol.CONFIG_FILE

    @property
    def log(self) -> Path:
        """The training log, a JSON object a line."""
        return self.folder / protocol.LOG_FILE

    @property
    def samples(self) -> Path:
        """Some completions of each update with their rewards, a JSON object a line."""
        return self.folder / protocol.SAMPLES_FILE

    @property
    def result(self) -> Path:
        """Written last, atomically."""
        return self.folder / protocol.RESULT_FILE

    @property
    def final(self) -> Path:
        """The trained model or its adapters."""
        return self.folder / protocol.FINAL_FOLDER

    def checkpoints(self) -> list[tuple[int, Path]]:
        """The whole checkpoints as (update, folder), newest first; empty if that cannot be told."""
        try:
            return protocol.checkpoints(self.folder)
        except OSError:
            return []

    def newest_checkpoint(self) -> int:
        """The update of the newest checkpoint, -1 where there is none."""
        return max((update for update, _ in self.checkpoints()), default=-1)


def shipped(name: str) -> Path:
    """A file that comes with the program (`sweeps/demo.toml`): from the wheel, or the checkout."""
    package = Path(__file__).resolve().parents[1]
    in_wheel = package / "shipped" / name
    return in_wheel if in_wheel.exists() else package.parent / name
