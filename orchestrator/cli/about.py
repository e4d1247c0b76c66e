"""`grpo-sweep fields`, `grpo-sweep schema` and `grpo-sweep completion`."""

import click
from click.shell_completion import get_completion_class

from grpo_core.config import FIELDS, OTHER_WORDS, did_you_mean
from orchestrator.cli.group import cli
from orchestrator.cli.options import json_option
from orchestrator.cli.output import console, print_json
from orchestrator.errors import NothingAffected
from orchestrator.spec.json_schema import grammar
from orchestrator.views.fields import field_shape, fields_table

_BASH_WORD = "COMPREPLY+=($value)\n"
_ZSH_INIT = "(( $+functions[compdef] )) || { autoload -Uz compinit && compinit }\n"
_BASH_NO_BLANK = "            [[ $value == *= ]] && compopt -o nospace\n"


@click.command()
@click.argument("pattern", required=False)
@json_option
def fields(pattern: str | None, as_json: bool) -> None:
    """Every config field with default, range and meaning; with PATTERN those that speak of it.

    \b
    Examples:
      grpo-sweep fields lora
      grpo-sweep fields --json
    """
    names = [name for name in FIELDS if pattern is None or _speaks_of(name, pattern)]
    if not names:
        near = did_you_mean(pattern or "", FIELDS)
        raise NothingAffected(f"{pattern}: no field has this in its name or its meaning{near}")
    if as_json:
        print_json([field_shape(FIELDS[name]) for name in names])
    else:
        console().print(fields_table(names))


def _speaks_of(name: str, pattern: str) -> bool:
    """Whether a field's name or help holds the text, be it with blanks or `_`, in any case."""
    wanted = pattern.lower().replace("_", " ")
    ours = OTHER_WORDS.get(pattern.lower(), ())
    return wanted in f"{name} {FIELDS[name].help}".lower().replace("_", " ") or name in ours


@click.command()
def schema() -> None:
    """Print the JSON Schema of sweep specs, for editors that check TOML.

    \b
    With Even Better TOML or Taplo, in the first line of a spec:
      grpo-sweep schema > sweep.schema.json
      #:schema ./sweep.schema.json
    """
    print_json(grammar())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for SHELL: commands, options, sweeps, runs, fields and files.

    \b
    Where it belongs:
      zsh   echo 'eval "$(grpo-sweep completion zsh)"' >> ~/.zshrc
      bash  echo 'eval "$(grpo-sweep completion bash)"' >> ~/.bashrc
      fish  grpo-sweep completion fish > ~/.config/fish/completions/grpo-sweep.fish
    """

    kind = get_completion_class(shell)
    assert kind is not None  # click.Choice has let through only what click knows.
    source = kind(cli, {}, "grpo-sweep", "_GRPO_SWEEP_COMPLETE").source()
    # click's script for bash puts a blank behind everything, so behind learning_rate= as well.
    source = source.replace(_BASH_WORD, _BASH_WORD + _BASH_NO_BLANK)
    # compdef, which click's script for zsh calls, is not there before compinit has run.
    print(source.replace("#compdef grpo-sweep\n", f"#compdef grpo-sweep\n{_ZSH_INIT}", 1))
