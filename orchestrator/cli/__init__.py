"""The `grpo-sweep` command: thin click commands over store, spec and views.

Data goes to stdout, messages to stderr. Exit codes: 0 done, 2 usage, spec or database, 3 nothing
was affected, 130 Ctrl-C. The module of a command is loaded when it runs, so that `--help` is
instant.
"""

import errno
import os
import sys
from collections.abc import Sequence

import click

from grpo_core.errors import GRPOError
from grpo_core.run.surroundings import missing_folder, settle_streams
from grpo_core.terminal import visible_streams
from orchestrator.cli.group import cli
from orchestrator.cli.output import say
from orchestrator.errors import SweepError

__all__ = ["cli", "main"]

EXIT_USAGE = 2
EXIT_CTRL_C = 130


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code. Every error of ours is one message, no traceback."""
    settle_streams()
    # A terminal that cannot show a character shows a question mark instead of a traceback.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    with visible_streams():
        return _run(args)


def _run(args: Sequence[str] | None) -> int:
    try:
        code = cli.main(args=args, prog_name="grpo-sweep", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    except (click.Abort, KeyboardInterrupt):
        return EXIT_CTRL_C
    except (SweepError, GRPOError) as e:
        say(f"error: {e}")
        if gone := missing_folder():
            say(gone)
        return e.exit_code
    except OSError as e:
        return _system_error(e)
    return code if isinstance(code, int) else 0


def _system_error(error: OSError) -> int:
    if error.errno == errno.EPIPE:
        # Whoever read our output has gone, such as `head`; what is left has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if gone := missing_folder():
        say(f"error: {gone}")
        return EXIT_USAGE
    say(f"error: {error.filename or ''}: {error.strerror or error}".replace("error: : ", "error: "))
    return 1
