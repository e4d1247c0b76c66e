"""The documents tell the truth: specs expand, configs resolve, commands and links are there."""

import re

import click
import pytest
import tomli

from grpo_core.__main__ import make_parser
from grpo_core.config import (
    MLXGRPOConfig,
    apply_overrides,
    parse_config,
    update_config_from_dict,
)
from grpo_core.config.validation import find_faults
from orchestrator.cli.group import cli
from orchestrator.plan.expand import expand
from orchestrator.spec.reader import parse_spec
from tests import doc_blocks
from tests.doc_blocks import DOCUMENTS, ROOT, commands, fences, is_spec, links, rendered

TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in DOCUMENTS}
COMMANDS = [(name, words) for name, text in TEXTS.items() for words in commands(text)]
SNIPPETS = [(name, body) for name, text in TEXTS.items() for body in fences(text, "toml")]
SPECS = [(name, body) for name, body in SNIPPETS if is_spec(tomli.loads(body))]
CONFIGS = [snippet for snippet in SNIPPETS if snippet not in SPECS]

SOURCE = [
    path
    for folder in ("grpo_core", "orchestrator", "tests", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
# Files of users and of other projects, in examples.
NOT_OURS = {"file.py", "reward.py"}

each_spec = pytest.mark.parametrize(("name", "body"), SPECS)


def test_there_is_something_to_hold():
    """A change of the documents' form must not make these tests look at nothing."""
    assert len(SPECS) >= 20
    assert len(CONFIGS) > 0
    assert len(COMMANDS) > 60


@each_spec
def test_spec_expands_to_as_many_runs_as_it_says(name, body, monkeypatch):
    """As a file in sweeps/, with configs/ beside it; `# N runs` on its first line is checked."""
    monkeypatch.chdir(ROOT)
    expansion = expand(parse_spec(body, ROOT / "sweeps" / "example.toml"))
    told = re.search(r"(\d+) runs", body.splitlines()[0])
    settings = len(expansion.settings) + expansion.to_ask
    runs = settings * max(1, len(expansion.spec.seeds))
    assert told is None or int(told[1]) == runs


@pytest.mark.parametrize(("name", "body"), CONFIGS)
def test_config_resolves_strictly(name, body):
    """No unknown key, no value that a run would refuse."""
    warnings = []
    cfg = update_config_from_dict(MLXGRPOConfig(), parse_config(body, name), warnings.append)
    assert not warnings
    assert not list(find_faults(cfg))


@pytest.mark.parametrize(
    ("name", "words"), COMMANDS, ids=[f"{name}: {' '.join(words)}" for name, words in COMMANDS]
)
def test_command_exists_with_its_options(name, words):
    """Parsed as the program would, not run; every `--set` fits its field."""
    program, *args = words
    overrides = _trainer_sets(args) if program == "mlx-grpo" else _sweep_sets(args)
    apply_overrides(MLXGRPOConfig(), overrides, strict=True)


def _trainer_sets(args):
    return make_parser().parse_args([arg for arg in args if arg != "--help"]).set


def _sweep_sets(args):
    context = click.Context(cli, info_name="grpo-sweep")
    if not args or args[0].startswith("-"):
        cli.make_parser(context).parse_args(list(args))
        return []
    command = cli.get_command(context, args[0])
    assert command is not None, args[0]
    context = click.Context(command, parent=context, **command.context_settings)
    values, rest, _ = command.make_parser(context).parse_args(args[1:])
    if context.ignore_unknown_options:
        make_parser().parse_args([word for word in rest if word])
    return values.get("overrides") or []


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    """Every relative link of a document."""
    folder = (ROOT / name).parent
    assert [target for target in links(TEXTS[name]) if not (folder / target).exists()] == []


def test_every_file_that_the_source_or_a_document_names_is_there():
    """`worker.py`, `rollout/generate.py`: a file that has moved takes its mentions along."""
    there = {path.relative_to(ROOT).as_posix() for path in SOURCE}
    missing = [
        f"{path.relative_to(ROOT)}: `{name}`"
        for path in (*SOURCE, *DOCUMENTS)
        for name in re.findall(r"`([a-z_/]+\.py)`", path.read_text(encoding="utf-8"))
        if name not in NOT_OURS and not any(f"/{file}".endswith(f"/{name}") for file in there)
    ]
    assert missing == []


_PICTURES = sorted((ROOT / "docs" / "pictures").iterdir())


def test_every_picture_is_shown_and_none_is_heavy():
    """Below 200 kB each, so that a clone stays small; `python -m tests.pictures` makes them."""
    shown = {(ROOT / name).parent / target for name in TEXTS for target in links(TEXTS[name])}
    assert [path.name for path in _PICTURES if path.suffix != ".png" or path not in shown] == []
    assert [path.name for path in _PICTURES if path.stat().st_size > 200_000] == []


def test_made_blocks_are_what_the_source_says():
    """The memory table and fields as the source has them; the session as the README shows it."""
    for block, (document, content) in doc_blocks.blocks().items():
        text = document.read_text(encoding="utf-8")
        assert content in text, "run: python -m tests.doc_blocks"
        assert rendered(text, block, content) == text


def test_both_readmes_give_the_same_commands_and_the_same_spec():
    """The Chinese one says what the English one does, word for word but for the comments."""
    english, chinese = (
        [_uncommented(block) for kind in ("bash", "toml") for block in fences(TEXTS[name], kind)]
        for name in ("README.md", "README.zh.md")
    )
    assert chinese == english
    assert sum("pip install" in line for block in english for line in block) == 2


def _uncommented(block):
    return [re.sub(r"(^|\s+)#.*", "", line) for line in block.splitlines()]
