"""docs/json.md tells what `--json` prints: every field, no other, each of a type it names."""

import json
import re
import shlex

import pytest

from orchestrator.cli import main
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Verdict
from orchestrator.system.paths import home
from orchestrator.worker.serving import NodeStatus, serve_alone
from tests.doc_blocks import ROOT
from tests.queue_kit import nothing_before
from tests.sweep_kit import (
    add_sweep,
    finish_next,
    finished_sweep,
    planned_run,
    write_lines,
    write_run,
)

TEXT = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| (`.+?`) \| (.+?) \|", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]+\]\(#([\w-]+)\)")
_TYPES = {
    "text": str,
    "integer": int,
    "number": (int, float),
    "bool": bool,
    "list": list,
    "object": dict,
    "objects": dict,
    "null": type(None),
}
RATES = [10.0**-power for power in range(2, 8)]
SPEC = f"""\
config = "base.toml"
seeds  = [0, 1]
[params]
learning_rate = {RATES}
lora_rank     = [2, 4, 8, 16]
"""
# What a section is about; several where no single one shows every field.
COMMANDS = {
    "`status --json`": ["status --all --json"],
    "`status --by KEY --json`": ["status many --by learning_rate --by lora_rank --json"],
    "`show RUN --json`": [
        "show 1 --json",
        "show {failed} --json",
        "show {queued} --json",
        "show cut --json",
    ],
    "`show RUN OTHER --json`": ["show 1 24 --json", "show cut {queued} --json"],
    "`submit SPEC --json`": [
        "submit small.toml --dry-run --json",
        "submit small.toml --json",
        "confirm many --top 2 --seeds 100-101 --json",
        "fork 1 --at 20 --set learning_rate=1e-5 --json",
        "extend small larger.toml --json",
    ],
    "`best SWEEP --json`": ["best many --json", "best many --iqm --json"],
    "`best SWEEP --history --json`": ["best many --history --json"],
    "`compare SWEEP --by KEY --json`": ["compare many --by learning_rate --json"],
    "`importance SWEEP --json`": ["importance many --json"],
    "`stop-check SWEEP --json`": ["stop-check many --warmup 30% --json"],
    "`fields --json`": ["fields --json", "fields clip --json"],
    "`doctor --json`": ["doctor --json"],
}


# --- what is documented


def sections():
    """Heading -> its fields: path -> the words of its type."""
    parts = _HEADING.split(TEXT)[1:]
    return {heading: _fields(body) for heading, body in zip(parts[::2], parts[1::2], strict=True)}


def _fields(body):
    found = {}
    for names, kind in _ROW.findall(body):
        for name in re.findall(r"`([^`]+)`", names):
            found[name] = kind
    return found


def documented(heading):
    """The fields of a section, with those of the sections that it refers to."""
    by_anchor = {_anchor(name): fields for name, fields in sections().items()}
    found = {}

    def add(prefix, fields):
        for name, kind in fields.items():
            path = prefix if name == "." else (prefix + "." if prefix else "") + name
            link = _LINK.search(kind)
            found[path] = kind
            if link:
                found[path] = kind.replace(link[0], "objects")
                add(path, by_anchor[link[1]])

    add("", sections()[heading])
    found.pop("", None)
    return found


def _anchor(heading):
    return re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-")


# --- what is printed


def printed(value, kinds, path=""):
    """(path, value) of every field, as deep as the page tells of its parts."""
    if isinstance(value, dict) and kinds.get(path) != "object":
        if path:
            yield path, value
        for key, item in value.items():
            yield from printed(item, kinds, f"{path}.{key}" if path else key)
    elif isinstance(value, list) and (not path or f"{path}[]" in kinds):
        for item in value:
            yield from printed(item, kinds, f"{path}[]")
    else:
        yield path, value


@pytest.fixture(scope="module")
def queue(tmp_path_factory):
    """A sweep of twenty-four settings in two seeds, one that failed, and one that waits."""
    root = tmp_path_factory.mktemp("json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRPO_SWEEP_HOME", str(root / "home"))
        patch.chdir(root)
        settings = [
            (1 - number / 6, {"learning_rate": rate, "lora_rank": rank})
            for number, rate in enumerate(RATES)
            for rank in (2, 4, 8, 16)
        ]
        finished_sweep(root, settings, seeds=(0, 1), name="many", spec=SPEC)
        (root / "out" / "many-0-s0" / "checkpoint-20").mkdir()
        add_sweep(root, [planned_run(f"bad-{n}", 0, {"lora_rank": n}) for n in (1, 2)], "bad")
        failed = finish_next(
            Outcome(Verdict.OOM, "out of memory", "[METAL] Insufficient Memory", 4),
            write=lambda run: write_run(run.folder, 0.1, 20),
        )
        _running_and_cut(root)
        config = f'config = "{ROOT / "configs" / "tiny.toml"}"\n'
        for name, rates in (("small", "[1e-4]"), ("larger", "[1e-4, 1e-3]")):
            spec = f'{config}name = "{name}"\n[params]\nlearning_rate = {rates}\n'
            (root / f"{name}.toml").write_text(spec)
    return root, {"failed": failed.id, "queued": failed.id + 1}


def _running_and_cut(root):
    """A run that trains, and whose completions all hit the limit."""
    add_sweep(root, [planned_run("cut", 0, {"lora_rank": 3})], "now")
    with Store.open(home().db) as store:
        store.control.move_first([store.queries.runs(sweep_id=3)[0].id])
        run, _ = store.claims.claim("host", "boot", nothing_before)
    line = {"reward_mean": 1.0, "truncated_frac": 1.0, "completion_length": 256.0}
    lines = [{"update": update, **line} for update in range(1, 13)]
    write_lines(run.folder / "training_log.jsonl", lines)


@pytest.fixture
def ask(queue, monkeypatch, capfd):
    """Run a command with `--json` in that folder: what it printed."""
    root, names = queue
    monkeypatch.setenv("GRPO_SWEEP_HOME", str(root / "home"))
    monkeypatch.chdir(root)

    def run(line):
        capfd.readouterr()
        code = main(shlex.split(line.format(**names)))
        out = capfd.readouterr()
        assert code == 0, out.err
        return json.loads(out.out)

    return run


@pytest.mark.parametrize("heading", COMMANDS)
def test_the_page_tells_every_field_that_is_printed(ask, heading):
    """No field more, no field less, and each value of a type that the page names."""
    kinds = documented(heading)
    seen = set()
    for line in COMMANDS[heading]:
        with serve_alone(home()) as serving:
            serving.offer(["mac/0"], [NodeStatus("mac", "mini", "metal", 2**34, 1)])
            document = ask(line)
        for path, value in printed(document, kinds):
            where = path if path in kinds else f"{path}[]" if value == [] else path
            inner = any(key.startswith((f"{path}.", f"{path}[")) for key in kinds)
            assert where in kinds or inner, f"{line}: {path} is not in docs/json.md"
            seen.add(path)
            if path in kinds:
                assert fits(value, kinds[path]), f"{line}: {path} = {value!r}, not {kinds[path]}"
    seen |= {path for path in kinds if any(other.startswith(f"{path}.") for other in seen)}
    assert sorted(set(kinds) - seen) == [], "documented, but never printed"


def fits(value, kind):
    """Whether a value is of one of the types that a cell names."""
    if kind == "any":
        return True
    allowed = tuple(_TYPES[word] for word in kind.split(" or "))
    flat = [t for types in allowed for t in (types if isinstance(types, tuple) else (types,))]
    return type(value) in flat


def test_every_command_with_json_is_on_the_page():
    """A new read shows up here."""
    import click

    from orchestrator.cli.group import cli

    context = click.Context(cli)
    takes = {
        name
        for name in cli.list_commands(context)
        if any("--json" in p.opts for p in cli.get_command(context, name).params)
    }
    told = {line.split()[0] for lines in COMMANDS.values() for line in lines}
    assert takes == told
    assert set(COMMANDS) <= set(sections())
