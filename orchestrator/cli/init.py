"""`grpo-sweep init`: a sweep of one's own, from three questions."""

import sys
from pathlib import Path

import click

from grpo_core.config import named_path
from orchestrator.cli.output import busy, say
from orchestrator.errors import UsageError
from orchestrator.starting import files, rows
from orchestrator.starting.files import Answers
from orchestrator.starting.rows import RowsFile

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("folder", type=_FOLDER, default=".")
@click.option("--model", metavar="NAME", help="A hub repository, a folder, or builtin/tiny.")
@click.option(
    "--rows",
    "rows_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Your rows, .jsonl or .parquet; without it some are written.",
)
@click.option("--prompt-key", metavar="COLUMN", help="The column with the prompt.")
@click.option("--answer-key", metavar="COLUMN", help="The column with the reference answer.")
@click.option("--reward", type=click.Choice(files.REWARDS), help="The reward that counts.")
@click.option("--no-check", is_flag=True, help="Do not try one update of it.")
def init(
    folder: Path,
    model: str | None,
    rows_file: Path | None,
    prompt_key: str | None,
    answer_key: str | None,
    reward: str | None,
    no_check: bool,
) -> None:
    """Write a sweep of your own into FOLDER: a spec, a reward to change, rows to try.

    Asks for the model, the rows and the reward, or takes them as options; then it trains one
    update, and says what a night will do. Without a terminal what is not given is the default.

    \b
    Examples:
      grpo-sweep init mine
      grpo-sweep init mine --model Qwen/Qwen2.5-0.5B-Instruct --rows rows.jsonl --reward own
    """
    model = model or _ask_model()
    found = _ask_rows(rows_file)
    if found is None and (prompt_key or answer_key):
        raise UsageError("--prompt-key and --answer-key go with --rows")
    prompt, answer = _columns(found, prompt_key, answer_key)
    chosen = reward or _ask_reward()
    answers = Answers(
        model, None if found is None else found.path.resolve(), prompt, answer, chosen
    )
    written = files.texts(answers, folder)
    files.write(written, folder)
    for name in written:
        print(folder / name)
    if not no_check:
        _check(folder)
    _say_next(folder)


# --- the three questions


def _is_asked() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask_model() -> str:
    if not _is_asked():
        return files.DEFAULT_MODEL
    say("1. Which model? A hub repository, a folder, or one that comes along:")
    say("   builtin/tiny      0.1 M parameters, to try everything in a minute")
    say("   builtin/smollm2   135 M parameters, a real one; the first run gets it")
    return str(click.prompt("   model", default=files.DEFAULT_MODEL, err=True)).strip()


def _ask_rows(given: Path | None) -> RowsFile | None:
    """The first rows of the file, or None for ours."""
    if given is not None:
        return rows.look(given)
    if not _is_asked():
        return None
    say("2. Which rows? A .jsonl or .parquet file with a prompt and an answer in each;")
    say("   Enter writes some sums to try.")
    while True:
        typed = str(click.prompt("   rows", default="", show_default=False, err=True)).strip()
        try:
            return rows.look(Path(named_path(typed))) if typed else None
        except UsageError as e:
            say(f"   {e}")


def _columns(found: RowsFile | None, prompt: str | None, answer: str | None) -> tuple[str, str]:
    """The columns of prompt and answer, and what the first row has there, for the user to see."""
    if found is None:
        return "question", "answer"
    prompt = _column(found, "prompt", prompt, found.guess(rows.PROMPT_NAMES))
    answer = _column(found, "answer", answer, found.guess(rows.ANSWER_NAMES, other=prompt))
    say(f"   prompt, from {prompt}: {found.shown(prompt)}")
    say(f"   answer, from {answer}: {found.shown(answer)}")
    return prompt, answer


def _column(found: RowsFile, what: str, given: str | None, guess: str | None) -> str:
    listed = ", ".join(found.columns)
    if given is not None and given not in found.columns:
        raise UsageError(f"--{what}-key {given}: {found.path} has no such column; it has {listed}")
    if chosen := given or guess:
        return chosen
    if not _is_asked():
        raise UsageError(
            f"{found.path}: which column is the {what}? It has {listed}; say --{what}-key"
        )
    choice = click.Choice(found.columns)
    return str(click.prompt(f"   which column is the {what}", type=choice, err=True))


def _ask_reward() -> str:
    if not _is_asked():
        return files.REWARDS[0]
    say("3. Which reward? All three are written into reward.py, for you to change:")
    say("   number   the right number, or one that is near")
    say("   format   reasoning and answer between their tags")
    say("   own      yours, begun with a line of code")
    choice = click.Choice(files.REWARDS)
    return str(click.prompt("   reward", type=choice, default=files.REWARDS[0], err=True))


# --- what comes of it


def _check(folder: Path) -> None:
    """Expand the spec as a submit would, train one update, and say what a night will do."""
    # Not at the top: the questions come sooner.
    from orchestrator.plan.expand import expand
    from orchestrator.spec.reader import read_spec
    from orchestrator.starting.night import forecast_night

    expansion = expand(read_spec(folder / files.SPEC))
    with busy("training one update of it"):
        night = forecast_night(expansion, folder)
    say(f"checked: {night.text()}")


def _say_next(folder: Path) -> None:
    there = "" if folder == Path() else f"cd {folder} && "
    say("next:")
    say(f"  {there}grpo-sweep submit {files.SPEC} --start")
    say("  grpo-sweep ui --open")
