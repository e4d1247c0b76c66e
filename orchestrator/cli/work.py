"""`grpo-sweep work`: train what is queued, here or in the background."""

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress

import click

from grpo_core.errors import ExitCode
from orchestrator.cli.cluster_options import ClusterChoice, cluster_options
from orchestrator.cli.hours import hours_options
from orchestrator.cli.output import console, say
from orchestrator.cli.slots import slots_options
from orchestrator.errors import QueueBusy, UsageError
from orchestrator.system.paths import home
from orchestrator.trackers import live
from orchestrator.trackers.targets import NAMES, parse_targets
from orchestrator.views.live import worker_view
from orchestrator.worker import notices, worker
from orchestrator.worker.detach import ask_to_stop, spawn_detached
from orchestrator.worker.events import Event
from orchestrator.worker.hours import Gate, Hours
from orchestrator.worker.serving import ENV_SERVICE, worker_to_stop
from orchestrator.worker.slots import Slots

_EPILOG = """\b
COMMAND runs without a shell, at most 30 s, with this in its environment:
  GRPO_SWEEP_EVENT     sweep_done, first_failure (of a sweep), queue_stopped (by failures,
                       a limit or a GPU that hangs, not by a user), worker_died (by an error)
                       or test (by grpo-sweep doctor --notice)
  GRPO_SWEEP_TEXT      what happened, in a line
  GRPO_SWEEP_SWEEP     the sweep's name
  GRPO_SWEEP_RUN       the run's id; GRPO_SWEEP_RUN_NAME is its name
  GRPO_SWEEP_STATE     the state of the run, else of the sweep
  GRPO_SWEEP_REASON    why it failed or stands still
  GRPO_SWEEP_BEST      the best setting so far and its value
  GRPO_SWEEP_COUNTS    such as: 5 completed, 1 failed

\b
What does not apply is empty. GRPO_SWEEP_NOTIFY=COMMAND in the environment is the default, also
for submit --start; set but empty, it is the same as --no-notify.
"""


@click.command(epilog=_EPILOG)
@click.option("--until-empty", is_flag=True, help="End when nothing is left that could run.")
@click.option("--detach", is_flag=True, help="Work in the background, also after logout.")
@click.option(
    "--frozen", is_flag=True, help="Hold a sweep whose data, rewards, code or packages changed."
)
@click.option(
    "--prewarm/--no-prewarm",
    default=None,
    help="Prepare the next trainer while one trains.  [default: from 16 GB of memory on]",
)
@click.option(
    "--notify",
    metavar="COMMAND",
    help="Run this when a sweep is done or has its first failure; see below.",
)
@click.option("--no-notify", is_flag=True, help="Send no notice, on the desktop neither.")
@click.option(
    "--report-to",
    metavar="TOOL[=PLACE]",
    multiple=True,
    help=f"Send what runs log to {', '.join(NAMES)}, while they train; repeat for more.",
)
@slots_options
@cluster_options
@hours_options
@click.option("--stop", is_flag=True, help="End the worker that runs, once it has checkpointed.")
def work(
    until_empty: bool,
    detach: bool,
    frozen: bool,
    prewarm: bool | None,
    notify: str | None,
    no_notify: bool,
    report_to: tuple[str, ...],
    hours: Hours,
    slots: Slots | None,
    cluster: ClusterChoice | None,
    stop: bool,
) -> int:
    """Train what is queued, one run after another, until stopped; with slots several at a time.

    \b
    Examples:
      grpo-sweep work --until-empty
      grpo-sweep work --detach --notify ./tell-me.sh
      grpo-sweep work --detach --between 22:00-08:00 --on-power
      grpo-sweep work --detach --report-to tensorboard=runs --report-to wandb=my-project
      grpo-sweep work --devices 0,1,2,3
      grpo-sweep work --cluster
      grpo-sweep work --stop
      grpo-sweep work --notify 'sh -c "curl -d \\"$GRPO_SWEEP_TEXT\\" ntfy.sh/my-topic"'

    Ctrl-C checkpoints the running run and puts it back into the queue; a second one does not wait
    for the checkpoint. A trainer that a dead worker left behind is taken over.

    With --between, --on-power or --when-idle a run that trains outside of them is checkpointed and
    put back, and the worker waits.

    With --cluster it trains on the nodes of a cluster, and on this machine only in the slots that
    --slots or --devices give it (docs/cluster.md).
    """
    if stop:
        return _stop()
    _settle_notice(notify, no_notify)
    if report_to:
        live.leave_in_environment(parse_targets(report_to))
    live.check(live.targets_of_environment())
    if cluster is not None:
        cluster = cluster.settled()
    if detach:
        pid = spawn_detached(
            until_empty=until_empty,
            frozen=frozen,
            prewarm=prewarm,
            hours=hours,
            slots=slots,
            cluster=cluster.words() if cluster else (),
        )
        say(f"started a worker in the background (pid {pid}); what it says: {home().worker_log}")
        return 0

    def heard(event: Event) -> None:
        # What is shown of a queue that others hold can wait; the training cannot.
        with suppress(QueueBusy):
            listen(event)
        notice(event)
        report(event)

    # The view ends first: what is said about notices comes below it.
    with (
        cluster.join() if cluster else nullcontext() as joined,
        _notifier() as notice,
        _reports() as report,
        worker_view(home(), console(stderr=True)) as listen,
    ):
        code = worker.work(
            until_empty=until_empty,
            on_event=heard,
            frozen=frozen,
            prewarm=prewarm,
            gate=Gate(hours),
            slots=slots,
            cluster=joined,
        )
    # A service that was asked to stop has not failed: it must not be started again.
    return 0 if code == ExitCode.INTERRUPTED and os.environ.get(ENV_SERVICE) else code


def _stop() -> int:
    """Let the worker checkpoint and end; Ctrl-C leaves it to do so by itself."""
    pid = worker_to_stop()
    say(f"the worker (pid {pid}) checkpoints and ends")
    ask_to_stop(pid)
    say("the worker has ended; what it trained is queued again")
    return 0


def _settle_notice(command: str | None, off: bool) -> None:
    """Check the command, and leave it where this worker or one in the background finds it."""
    if command is not None and off:
        raise UsageError("--notify and --no-notify: give one of them")
    if off:
        os.environ[notices.ENV] = ""
    elif command is not None:
        # By its whole path: a worker in the background stands in another folder.
        os.environ[notices.ENV] = shlex.join(notices.parse_command(command))


@contextmanager
def _reports() -> Iterator[Callable[[Event], None]]:
    """What sends the logs to tools, a process for each."""
    with ExitStack() as stack:
        tools = [live.LiveReports(home(), target, say) for target in live.targets_of_environment()]
        for tool in tools:
            stack.enter_context(tool)

        def report(event: Event) -> None:
            for tool in tools:
                tool(event)

        yield report


def _notifier() -> AbstractContextManager[Callable[[Event], None]]:
    """What gives the notices; nothing where they are switched off."""
    if notices.is_off():
        return nullcontext(lambda event: None)
    return notices.Notifier(home().make(), notices.command_of_environment(), say)
