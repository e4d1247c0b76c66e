"""`grpo-sweep service`: a worker that starts at login, and again after a crash or a panic."""

import os

import click

from orchestrator.cli.cluster_options import ClusterChoice, cluster_options
from orchestrator.cli.hours import hours_options
from orchestrator.cli.output import say
from orchestrator.cli.slots import slots_options
from orchestrator.errors import NothingAffected
from orchestrator.system.paths import home
from orchestrator.worker import service as services
from orchestrator.worker.detach import command
from orchestrator.worker.hours import Hours
from orchestrator.worker.serving import serving_worker
from orchestrator.worker.slots import Slots


@click.group()
def service() -> None:
    """Let the system start the worker at login, and again after a crash or a kernel panic.

    A LaunchAgent on macOS, a systemd user unit on Linux. A worker that was asked to stop (work
    --stop) stays stopped until the next login.
    """


@service.command()
@hours_options
@slots_options
@cluster_options
@click.option("--frozen", is_flag=True, help="As work --frozen.")
@click.option("--prewarm/--no-prewarm", default=None, help="As work --prewarm.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def install(
    hours: Hours,
    slots: Slots | None,
    cluster: ClusterChoice | None,
    frozen: bool,
    prewarm: bool | None,
    yes: bool,
) -> None:
    """Show the file, write it after a yes, and start the worker.

    \b
    Example:
      grpo-sweep service install --between 22:00-08:00 --on-power
    """
    words = command(
        frozen=frozen,
        prewarm=prewarm,
        hours=hours,
        slots=slots,
        cluster=cluster.settled().words() if cluster else (),
    )
    found = services.describe(words, home().make())
    print(found.text)
    if not yes:
        click.confirm(f"Write this to {found.path} and start the worker?", abort=True, err=True)
    if services.is_taken_up(found):
        services.remove(found)
    services.install(found)
    say(f"{found.path} is written; what the worker says: {home().worker_log}")
    if (worker := serving_worker()) is not None and worker.pid != os.getpid():
        say(f"a worker serves the queue ({worker.who})")


@service.command()
def remove() -> None:
    """Stop the worker, as work --stop does, and delete the file."""
    found = services.describe(command(), home())
    if not services.remove(found):
        raise NothingAffected(f"{found.path}: there is no such file; nothing is installed")
    say(f"{found.path} is deleted")


@service.command()
def status() -> None:
    """Whether it is installed, and whether the system has taken it up."""
    found = services.describe(command(), home())
    if not found.path.exists():
        raise NothingAffected("not installed; grpo-sweep service install starts one at login")
    print(f"file    {found.path}")
    state = "taken up" if services.is_taken_up(found) else "not taken up, or it has ended"
    print(f"system  {state}")
    worker = serving_worker()
    print(f"worker  {'none runs' if worker is None else f'runs ({worker.who})'}")
