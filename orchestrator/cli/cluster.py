"""`grpo-sweep cluster`: the scheduler that joins several machines to one queue."""

import asyncio
import sys
from pathlib import Path

import click

from orchestrator.cli.cluster_options import cluster_of
from orchestrator.cli.output import say
from orchestrator.cluster import serving
from orchestrator.cluster.address import LOOPBACK, PORT, Address
from orchestrator.cluster.extra import need
from orchestrator.cluster.keys import ClusterKey, make_key, read_key
from orchestrator.errors import UsageError
from orchestrator.system.holders import holder_of
from orchestrator.system.network import lan_names
from orchestrator.system.paths import Home, home
from orchestrator.text import plural, size
from orchestrator.worker.detach import start_detached
from orchestrator.worker.nodes import Node, NodeAway, NodeRefused

_EVERYWHERE = "0.0.0.0"
_WHAT = "the cluster of this home"


@click.group()
def cluster() -> None:
    """Let several machines train for one queue (docs/cluster.md).

    One machine runs the scheduler (cluster up), each that trains is a node (grpo-sweep node), and
    the worker of the queue hands its runs to them (work --cluster).
    """


@cluster.command()
@click.option("--host", metavar="HOST", help="Listen there alone.  [default: every address]")
@click.option("--port", type=click.IntRange(1, 65535), default=PORT, show_default=True)
@click.option("--no-tls", is_flag=True, help="Without encryption and key, for this machine alone.")
@click.option("--detach", is_flag=True, help="Run in the background, also after logout.")
def up(host: str | None, port: int, no_tls: bool, detach: bool) -> None:
    """Start the scheduler, and say what to type on the other machines.

    It makes a key the first time. Whoever has the key may run programs on every node: keep it as
    you keep a private key of ssh. To lock out who has it, delete the file and start again.

    \b
    Examples:
      grpo-sweep cluster up --detach
      grpo-sweep cluster up --host 192.168.1.5 --port 9000
    """
    need()
    address = Address(host or (LOOPBACK if no_tls else _EVERYWHERE), port, not no_tls).checked()
    here = home().make()
    if detach:
        _start(here, address)
        return
    with serving.hold(here.cluster_lock, _WHAT) as lock:
        key = _own_key(here) if address.tls else None
        near = Address(_reached_at(address.host), port, address.tls)

        def ready() -> None:
            lock.say(address=near.uri)
            _explain(here, address)

        # Not at the top: the engine is optional, and takes its time to load.
        from orchestrator.cluster.engine import set_up
        from orchestrator.cluster.hub import serve

        set_up(here.cluster_log.with_name("engine.log"))
        asyncio.run(serve(address, key, ready))
    say("the cluster has ended; what trains on its nodes goes on")


@cluster.command()
def down() -> None:
    """End the scheduler. Nodes wait for it to come back, and what trains on them goes on."""
    serving.stop(home().cluster_lock, _WHAT)
    say("the cluster has ended; what trains on its nodes goes on")


@cluster.command()
@click.argument("address", metavar="[ADDRESS]", required=False)
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The cluster's key.")
def status(address: str | None, key: Path | None) -> None:
    """Which nodes are there, what they have, and what they do."""
    where, own_key = cluster_of(address, key)
    # Not at the top: the engine is optional, and takes its time to load.
    from orchestrator.cluster.engine import set_up
    from orchestrator.cluster.reach import ClusterNodes

    set_up()
    with ClusterNodes(where, own_key) as nodes:
        lines = [_line(node) for node in nodes]
    print(f"cluster  {where}")
    for line in lines:
        print(f"node     {line}")
    if not lines:
        print("node     none; see: grpo-sweep node --help")


def _line(node: Node) -> str:
    """A node in a line."""
    try:
        facts, held = node.facts(), node.held()
    except NodeAway as e:
        # It says which node.
        return str(e).removeprefix("node ")
    except NodeRefused as e:
        return f"{node.name}: {e}"
    running = sum(attempt.running for attempt in held)
    return (
        f"{facts.name}: {plural(len(facts.slots), 'slot')}, {facts.backend}, "
        f"{size(facts.memory_bytes)} a slot, {size(facts.disk_free_bytes)} of disk free, "
        f"{running} in training, grpo-sweep {facts.version}, mlx {facts.mlx}"
    )


def _own_key(here: Home) -> ClusterKey:
    here.cluster_key.parent.mkdir(mode=0o700, exist_ok=True)
    if here.cluster_key.exists():
        return read_key(here.cluster_key)
    return make_key(here.cluster_key)


def _reached_at(host: str) -> str:
    """How this machine itself reaches what listens there."""
    return {_EVERYWHERE: LOOPBACK, "::": "::1"}.get(host, host)


def _start(here: Home, address: Address) -> None:
    """Start it in the background, and say what it said."""
    if (found := serving.running(here.cluster_lock)) is not None:
        raise UsageError(f"{_WHAT} runs already ({found.who})")
    here.cluster_log.parent.mkdir(mode=0o700, exist_ok=True)
    words = [sys.executable, "-P", "-m", "orchestrator", "cluster", "up"]
    words += ["--host", address.host, "--port", str(address.port)]
    words += [] if address.tls else ["--no-tls"]

    def listens(pid: int) -> bool:
        holder = holder_of(here.cluster_lock)
        return holder.get("pid") == pid and "address" in holder

    pid = start_detached(words, here, here.cluster_log, "the cluster", listens)
    say(f"started the cluster in the background (pid {pid}); what it says: {here.cluster_log}")
    _explain(here, address)


def _explain(here: Home, address: Address) -> None:
    """What to type where."""
    if not address.tls:
        say(f"the cluster is up at {address}, for this machine alone, and not encrypted")
        say("whoever has an account on this machine may run programs as you through it")
        say("a node here: grpo-sweep node;  the queue's worker: grpo-sweep work --cluster")
        return
    host = lan_names()[0] if address.host in (_EVERYWHERE, "::") else address.host
    place = Address(host, address.port).place
    say(f"the cluster is up at {place}")
    say("a node on this machine:  grpo-sweep node")
    say("a node on another one:")
    say(f"  scp {here.cluster_key} OTHER:cluster-key.pem")
    say(f"  ssh OTHER grpo-sweep node {place} --key cluster-key.pem --detach")
    say("the queue's worker:      grpo-sweep work --cluster")
    say("whoever has the key may run programs on every node")
