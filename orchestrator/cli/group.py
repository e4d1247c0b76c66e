"""The command group: commands in sections, `status` when none is named, near names on a typo."""

import difflib
from importlib import import_module
from typing import Any

import click

# Section -> command -> (module, one line for --help). The module is imported when it is needed.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Start": {
        "demo": ("demo", "Run a small real sweep now, to see how it goes."),
        "init": ("init", "Begin a sweep of your own: three questions, and it is there."),
        "submit": ("submit", "Queue the runs of a sweep spec."),
        "confirm": ("follow_up", "Train the best settings again, on fresh seeds and fresh rows."),
        "fork": ("follow_up", "Start a run from the checkpoint of another."),
        "run": ("run", "Train one run now, as mlx-grpo would."),
        "work": ("work", "Train what is queued, one run after another."),
        "service": ("service", "Start the worker at login, and again after a crash."),
        "cluster": ("cluster", "Let several machines train for one queue."),
        "node": ("node", "Train for the queue of another machine."),
    },
    "Look": {
        "status": ("status", "What runs, what waits, what is done."),
        "watch": ("watch", "The same, live, from run to run."),
        "ui": ("ui", "The queue as a live page in the browser, with buttons."),
        "show": ("show", "Everything about a run: command, overrides, attempts, why."),
        "logs": ("logs", "What a run printed."),
        "best": ("best", "Rank the settings of a sweep."),
        "compare": ("best", "Compare the values of a parameter."),
        "importance": ("best", "Which parameters decided how good a setting was."),
        "stop-check": ("stop_check", "What a stop rule would have done to a finished sweep."),
        "report": ("report", "One HTML file about a sweep: ranking, curves, completions."),
        "export": ("export", "The runs of a sweep as CSV, JSON lines, Parquet or PNG."),
        "chat": ("result", "Ask the base and the trained model the same."),
        "fuse": ("result", "Base and adapters of a run as one model."),
        "wait": ("control", "Wait until runs are done."),
    },
    "Change": {
        "extend": ("follow_up", "Add to a sweep what its changed spec has more."),
        "cancel": ("control", "Give runs up."),
        "pause": ("control", "Hold runs, a sweep or the whole queue back."),
        "resume": ("control", "Let paused runs, a sweep or the queue go on."),
        "retry": ("control", "Queue failed or cancelled runs again, from their checkpoints."),
        "move": ("control", "Train some runs before all others."),
        "rm": ("upkeep", "Forget runs, with --files also what they wrote."),
        "backup": ("upkeep", "Write a copy of the queue, also while it works."),
    },
    "Help": {
        "doctor": ("doctor", "Check this machine, with a real training step."),
        "fields": ("about", "Every config field with default, range and meaning."),
        "schema": ("about", "The JSON Schema of sweep specs, for editors."),
        "completion": ("about", "Print the completion script of a shell."),
    },
}
_COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


# What other programs call it, and what to type here.
_OTHER_COMMANDS = {
    **dict.fromkeys(("ls", "ps", "list", "queue", "jobs"), "type grpo-sweep status"),
    **dict.fromkeys(("add", "enqueue", "sweep", "create"), "type grpo-sweep submit SPEC"),
    "kill": "type grpo-sweep cancel REF",
    **dict.fromkeys(("delete", "del", "remove", "clean"), "type grpo-sweep rm REF"),
    "stop": "grpo-sweep cancel gives runs up, pause holds them back, work --stop ends the worker",
    "help": "type grpo-sweep --help, or grpo-sweep COMMAND --help",
    **dict.fromkeys(("start", "worker", "agent"), "type grpo-sweep work"),
    "train": "type grpo-sweep run --config FILE",
    **dict.fromkeys(("top", "follow"), "type grpo-sweep watch"),
    "tail": "type grpo-sweep logs -f",
    "info": "type grpo-sweep show RUN",
    "results": "type grpo-sweep best",
    "restart": "type grpo-sweep retry REF",
}


class Commands(click.Group):
    """Commands by section, each imported when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the sections."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command with this name."""
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"orchestrator.cli.{_COMMANDS[cmd_name][0]}")
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """A usage error for an unknown command, with the nearest one."""
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], _COMMANDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else "; see grpo-sweep --help"
            if args[0] in _OTHER_COMMANDS:
                hint = f": {_OTHER_COMMANDS[args[0]]}"
            elif args[0].endswith(".toml"):
                hint = f"; to queue a sweep: grpo-sweep submit {args[0]}"
            ctx.fail(f"no such command: {args[0]}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """One list a section, without importing the commands."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, words) for name, (_, words) in commands.items()])


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="grpo-sweep", prog_name="grpo-sweep")
@click.pass_context
def cli(context: click.Context) -> Any:
    """Hyper-parameter sweeps of GRPO fine-tuning on one Apple GPU.

    \b
    Examples:
      grpo-sweep demo                         a small real sweep, here and now
      grpo-sweep submit sweeps/lr.toml --dry-run
      grpo-sweep submit sweeps/lr.toml --start
      grpo-sweep                              what runs, and how long it will take
      grpo-sweep watch                        the same, live
      grpo-sweep best lr                      which setting won, and how sure that is
      grpo-sweep report lr --open             a page to look at in the morning
    """
    if context.invoked_subcommand is None:
        command = cli.get_command(context, "status")
        assert command is not None
        return context.invoke(command)
    return None
