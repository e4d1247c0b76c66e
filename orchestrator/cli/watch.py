"""`grpo-sweep watch`: the status as it changes."""

import signal
import sys
from types import FrameType

import click

from orchestrator.cli.output import console
from orchestrator.cli.references import Ref
from orchestrator.system.paths import home
from orchestrator.views.watch import StatusReader, watch_live, watch_plain


@click.command()
@click.argument("sweep", required=False, type=Ref())
@click.option(
    "--every",
    "tick_s",
    type=click.FloatRange(min=0.1),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to look.",
)
def watch(sweep: str | None, tick_s: float) -> int:
    """The status, live: the run that trains with its reward, what comes next, what is done.

    Follows from run to run. q or Ctrl-C leaves it; the training goes on. In a pipe it prints the
    status each time that something changes, and ends when nothing is left to do.

    \b
    Examples:
      grpo-sweep watch
      grpo-sweep watch lr
      grpo-sweep watch | tee morning.txt
    """
    out = console()
    # Else a terminal whose command is ended would stay without its cursor and its lines.
    signal.signal(signal.SIGTERM, _leave)
    try:
        reader = StatusReader(home(), sweep)
        if out.is_terminal and not out.is_dumb_terminal:
            watch_live(reader, out, tick_s)
        else:
            watch_plain(reader, out, tick_s)
    except KeyboardInterrupt:
        sys.stdout.flush()
    return 0


def _leave(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
