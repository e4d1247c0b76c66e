"""Whether a worker serves the queue, and how the commands that queue runs start one."""

from orchestrator.cli.output import say
from orchestrator.worker.detach import spawn_detached
from orchestrator.worker.serving import is_served, serving_worker


def no_worker_hint() -> str:
    """What to say after something was queued and nobody works; empty where a worker runs."""
    if is_served():
        return ""
    return "no worker runs; start one with: grpo-sweep work   (or grpo-sweep work --detach)"


def say_no_worker() -> None:
    """The hint, where there is one."""
    if hint := no_worker_hint():
        say(hint)


def start_worker() -> None:
    """A worker in the background, unless one runs already."""
    worker = serving_worker()
    if worker is not None:
        say(f"a worker runs already ({worker.who})")
        return
    pid = spawn_detached()
    say(f"started a worker in the background (pid {pid}); watch it with: grpo-sweep watch")
