"""The options that say which cluster a command belongs to: `work`, `service`, `node`, `cluster`."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from orchestrator.cluster.address import Address
from orchestrator.cluster.extra import need
from orchestrator.cluster.keys import ClusterKey, read_key
from orchestrator.cluster.serving import local_cluster
from orchestrator.errors import UsageError
from orchestrator.system.paths import home
from orchestrator.worker.nodes import AWAY_S, Cluster

F = TypeVar("F", bound=Callable[..., Any])


def cluster_of(address: str | None, key: Path | None) -> tuple[Address, ClusterKey | None]:
    """The cluster at an address, without one that of this home, and its key; UsageError."""
    need()
    found = Address.parse(address) if address else local_cluster(home())
    return found, read_key(key or home().cluster_key) if found.tls else None


@dataclass(frozen=True)
class ClusterChoice:
    """On whose nodes a worker trains; an empty address is that of this home's scheduler."""

    address: str
    key: Path | None = None
    away_s: float = AWAY_S
    other_gpu: bool = False

    def words(self) -> list[str]:
        """The options of `work` that say the same, from whatever folder."""
        words = [f"--cluster={self.address}"]
        words += ["--cluster-key", str(self.key.absolute())] if self.key else []
        words += ["--away", str(self.away_s / 60)] if self.away_s != AWAY_S else []
        return words + (["--other-gpu"] if self.other_gpu else [])

    def settled(self) -> "ClusterChoice":
        """The same by its address, which stays though the scheduler ends for a while; UsageError.

        So a worker that is started after it waits for it.
        """
        where, _ = cluster_of(self.address, self.key)
        return replace(self, address=str(where))

    @contextmanager
    def join(self) -> Iterator[Cluster]:
        """Its nodes, for as long as the worker runs; UsageError, OtherVersion."""
        where, key = cluster_of(self.address, self.key)
        # Not at the top: the engine is optional, and takes its time to load.
        from orchestrator.cluster.engine import set_up
        from orchestrator.cluster.reach import ClusterNodes

        set_up()
        with ClusterNodes(where, key) as nodes:
            yield Cluster(nodes, away_s=self.away_s, other_gpu=self.other_gpu)


def cluster_options(command: F) -> F:
    """`--cluster` and what goes with it: one argument `cluster`, None without it."""

    @functools.wraps(command)
    def with_cluster(
        *args: Any,
        cluster: str | None,
        cluster_key: Path | None,
        away: float | None,
        other_gpu: bool,
        **others: Any,
    ) -> Any:
        if cluster is not None:
            away_s = AWAY_S if away is None else away * 60
            choice = ClusterChoice(cluster, cluster_key, away_s, other_gpu)
            return command(*args, cluster=choice, **others)
        if cluster_key is not None or away is not None or other_gpu:
            raise UsageError("--cluster-key, --away and --other-gpu go with --cluster")
        return command(*args, cluster=None, **others)

    options = (
        click.option(
            "--cluster",
            metavar="[ADDRESS]",
            is_flag=False,
            flag_value="",
            help="Train on the nodes of this cluster.  [ADDRESS: the one started here]",
        ),
        click.option(
            "--cluster-key",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help="The cluster's key file, where it was not started here.",
        ),
        click.option(
            "--away",
            metavar="MINUTES",
            type=click.FloatRange(min=0, min_open=True),
            help="How long a node may not answer until its run goes to another.  "
            f"[default: {AWAY_S / 60:.0f}]",
        ),
        click.option(
            "--other-gpu",
            is_flag=True,
            help="Let a run that began on a Mac's GPU go on on CUDA, and back: bits differ.",
        ),
    )
    for option in reversed(options):
        with_cluster = option(with_cluster)
    return with_cluster  # type: ignore[return-value]
