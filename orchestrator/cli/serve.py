"""`grpo-sweep work`: train what is queued, here or in the background."""

import click

from orchestrator.cli.common import console, say


@click.command()
@click.option("--until-empty", is_flag=True, help="End when nothing is left that could run.")
@click.option("--detach", is_flag=True, help="Work in the background, also after logout.")
@click.option(
    "--frozen", is_flag=True, help="Hold a sweep whose data, rewards, code or packages changed."
)
def work(until_empty: bool, detach: bool, frozen: bool) -> int:
    """Train what is queued, one run after another, until stopped.

    Ctrl-C checkpoints the running run and puts it back into the queue; a second one does not wait
    for the checkpoint. A trainer that a dead worker left behind is taken over.
    """
    from orchestrator import worker
    from orchestrator.paths import home

    if detach:
        pid = worker.spawn_detached(until_empty=until_empty, frozen=frozen)
        say(f"started a worker in the background (pid {pid}); what it says: {home().worker_log}")
        return 0
    from orchestrator.views.live import listener

    with listener(home(), console(stderr=True)) as listen:
        return worker.work(until_empty=until_empty, on_event=listen, frozen=frozen)
