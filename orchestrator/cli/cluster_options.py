"""The options that say which cluster a command belongs to: `work`, `node`, `cluster`."""

from pathlib import Path

from orchestrator.cluster.address import Address
from orchestrator.cluster.extra import need
from orchestrator.cluster.keys import ClusterKey, read_key
from orchestrator.cluster.serving import local_cluster
from orchestrator.system.paths import home


def cluster_of(address: str | None, key: Path | None) -> tuple[Address, ClusterKey | None]:
    """The cluster at an address, without one that of this home, and its key; UsageError."""
    need()
    found = Address.parse(address) if address else local_cluster(home())
    return found, read_key(key or home().cluster_key) if found.tls else None
