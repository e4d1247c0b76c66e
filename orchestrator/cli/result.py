"""`grpo-sweep chat` and `fuse`: the result of a run, used; MLX works in a child process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click

from orchestrator.cli.output import busy, say
from orchestrator.cli.references import Ref, one_run
from orchestrator.errors import SweepError, UsageError
from orchestrator.queue.store import Store
from orchestrator.run import Run

_RESULT = (sys.executable, "-P", "-m", "grpo_core.result")

_run = click.argument("run", type=Ref(runs=True, sweeps=False))


@click.command()
@_run
@click.option("--prompt", "prompts", multiple=True, help="Ask this; repeat for more.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="The longest answer.")
def chat(run: str, prompts: tuple[str, ...], max_tokens: int | None) -> None:
    """Ask the base and the trained model of a RUN the same; without --prompt, line by line.

    Asks as the run was trained: with its system prompt and the beginning of its answers.

    \b
    Examples:
      grpo-sweep chat 12 --prompt "What is 47 + 25?"
      grpo-sweep chat lr1e-5-g8-s0
    """
    found = _trained(run)
    asked = list(prompts) or _lines()
    words = ["ask", str(found.folder), *(["--max-tokens", str(max_tokens)] if max_tokens else [])]
    with busy("loading and asking both"):
        said = _child(found, words, "".join(json.dumps(text) + "\n" for text in asked))
    for answer in map(json.loads, said.splitlines()):
        print(f"prompt:  {answer['prompt']}\nbase:    {answer['base']}")
        print(f"trained: {answer['trained']}\n")


@click.command()
@_run
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), metavar="FOLDER")
@click.option("--dequantize", is_flag=True, help="Of a base in few bits: write all of them.")
def fuse(run: str, output: Path, dequantize: bool) -> None:
    """Write base and adapters of a RUN into one FOLDER, a model of its own.

    \b
    Examples:
      grpo-sweep fuse 12 -o models/mine
      grpo-sweep fuse 12 -o models/mine --dequantize      for other programs, such as llama.cpp
    """
    found = _trained(run)
    words = ["fuse", str(found.folder), str(output.absolute())]
    with busy("fusing"):
        _child(found, [*words, *(["--dequantize"] if dequantize else [])], "")
    print(output)


def _trained(ref: str) -> Run:
    with Store.open(readonly=True) as store:
        return one_run(store, ref)


def _lines() -> list[str]:
    """What is typed, or piped in; UsageError where that is nothing."""
    if sys.stdin.isatty():
        say("a prompt a line; an empty line asks them")
    asked = []
    for line in sys.stdin:
        if not line.strip():
            break
        asked.append(line.rstrip("\n"))
    if not asked:
        raise UsageError("there is nothing to ask: give --prompt, or lines")
    return asked


def _child(run: Run, words: list[str], given: str) -> str:
    """What the child prints; SweepError with its last words where it fails."""
    # In the folder of the submit, where relative names of models mean what they meant.
    folder = run.cwd if os.path.isdir(run.cwd) else None
    done = subprocess.run(
        [*_RESULT, *words], input=given, capture_output=True, text=True, cwd=folder
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        raise SweepError(said[-1].removeprefix("error: "))
    return done.stdout
