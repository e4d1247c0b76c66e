"""`grpo-sweep node`: this machine trains for the queue of another one."""

import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from orchestrator.cli.cluster_options import cluster_of
from orchestrator.cli.hours import hours_options
from orchestrator.cli.output import say
from orchestrator.cli.slots import slots_options
from orchestrator.cluster import serving
from orchestrator.cluster.address import Address
from orchestrator.errors import NothingAffected, UsageError
from orchestrator.system.holders import holder_of
from orchestrator.system.paths import Home, home
from orchestrator.worker.detach import start_detached
from orchestrator.worker.hours import Gate, Hours
from orchestrator.worker.slots import Slots


@click.command()
@click.argument("address", metavar="[ADDRESS]", required=False)
@click.option("--key", metavar="FILE", type=click.Path(path_type=Path), help="The cluster's key.")
@click.option("--name", help="What the node is called.  [default: as the machine]")
@slots_options
@hours_options
@click.option("--detach", is_flag=True, help="Run in the background, also after logout.")
@click.option("--stop", is_flag=True, help="End the nodes of this machine, or the one of --name.")
def node(
    address: str | None,
    key: Path | None,
    name: str | None,
    slots: Slots | None,
    hours: Hours,
    detach: bool,
    stop: bool,
) -> None:
    """Train what the worker of a cluster hands to this machine.

    \b
    Examples:
      grpo-sweep node                               the cluster that this machine started
      grpo-sweep node 192.168.1.5:8786 --key cluster-key.pem
      grpo-sweep node mini.local --key cluster-key.pem --devices 0,1,2,3
      grpo-sweep node 192.168.1.5:8786 --key cluster-key.pem --between 19:00-08:00
      grpo-sweep node --stop

    Nothing has to reach this machine: it calls the cluster, and calls again until it is there.
    Ctrl-C, or --stop, lets what trains checkpoint, and waits until the worker has fetched it; a
    second one leaves it to train on, and the next node of that name takes it over. Outside of
    --between, --on-power and --when-idle what trains checkpoints and goes on elsewhere.
    """
    if stop:
        _stop(home(), name)
        return
    own_slots = slots or Slots()
    own_name = serving.check_name(name or serving.default_name(socket.gethostname()))
    where, own_key = cluster_of(address, key)
    here = home().make()
    if detach:
        _start(here, own_name, where, key, [*own_slots.words(), *hours.words()])
        return
    lock = here.node_lock(own_name)
    folder = here.node_folder(own_name)
    with serving.hold(lock, f"node {own_name}") as held:

        def heard(text: str) -> None:
            held.say(heard=text)
            say(text)

        # Not at the top: the engine is optional, and takes its time to load.
        from orchestrator.cluster.agent import Agent
        from orchestrator.cluster.engine import set_up
        from orchestrator.cluster.joining import Membership, serve

        folder.parent.mkdir(mode=0o700, exist_ok=True)
        with Agent(folder, own_name, own_slots.each(), say=say) as agent:
            set_up(folder / "engine.log")
            membership = Membership(where, own_key, agent, folder / "engine", heard)
            asyncio.run(serve(membership, agent, say, Gate(hours)))
    say(f"node {own_name} has ended")


def _stop(here: Home, name: str | None) -> None:
    names = [serving.check_name(name)] if name else serving.local_nodes(here)
    if not names:
        raise NothingAffected("no node runs here")
    asked = {each: serving.ask_to_end(here.node_lock(each), f"node {each}") for each in names}
    say(
        f"{', '.join(names)}: ends once the worker has fetched what it trained; typed again, "
        "--stop does not wait, and the trainers train on"
    )
    for each, found in asked.items():
        serving.await_end(here.node_lock(each), found)
        say(f"node {each} has ended")


def _start(here: Home, name: str, where: Address, key: Path | None, more: Sequence[str]) -> None:
    """Start it in the background, and say what it said first."""
    lock, log = here.node_lock(name), here.node_log(name)
    if (found := serving.running(lock)) is not None:
        raise UsageError(f"node {name} runs already ({found.who})")
    words = [sys.executable, "-P", "-m", "orchestrator", "node", str(where), "--name", name]
    words += ["--key", str(key.absolute())] if key else []

    def speaks(pid: int) -> bool:
        holder = holder_of(lock)
        return holder.get("pid") == pid and "heard" in holder

    pid = start_detached([*words, *more], here, log, f"node {name}", speaks)
    say(f"started node {name} in the background (pid {pid}); what it says: {log}")
    say(str(holder_of(lock).get("heard")))
