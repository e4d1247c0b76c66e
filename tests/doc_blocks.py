"""What the documents quote: blocks that are made from the source, and commands and snippets.

`python -m tests.doc_blocks` writes the blocks: estimates of memory, config fields, the rooms of
docs/architecture.md, and what README.zh.md quotes from README.md. `test_docs.py` holds every
document to its blocks and to what the programs take.
"""

import ast
import re
import shlex
from dataclasses import replace
from functools import cache
from pathlib import Path

import grpo_core.update.memory_plan as memory
from grpo_core.config import (
    FIELDS,
    GROUPS,
    FieldInfo,
    MLXGRPOConfig,
    format_value,
    resolve_config,
)
from grpo_core.update.memory_estimate import Shape, estimate, model_shape
from orchestrator.spec.fields import TABLES, TOP_KEYS
from tests.rooms import ORDER, ROOT

DOCUMENTS = (
    *(ROOT / name for name in ("README.md", "README.zh.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
PROGRAMS = ("grpo-sweep", "mlx-grpo")

_FENCE = re.compile(r"^( *)```(\w+)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:grpo-sweep|mlx-grpo) [^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"")
_NOT_SHELL = re.compile(r"[<>|&;]")


# --- what a document holds


def fences(text: str, language: str) -> list[str]:
    """The fenced blocks in one language."""
    return [body for _, found, body in _FENCE.findall(text) if found == language]


def is_spec(document: dict[str, object]) -> bool:
    """Whether a TOML document is a sweep spec; else it is a config."""
    own = {*TOP_KEYS, *TABLES} - set(FIELDS)
    return bool(own & document.keys())


def commands(text: str) -> list[list[str]]:
    """Each command of ours, as words: from bash blocks, and inline where one stands alone."""
    lines = "\n".join(fences(text, "bash")).replace("\\\n", " ").splitlines()
    spans = [span for span in _INLINE.findall(_FENCE.sub("", text)) if not _NOT_SHELL.search(span)]
    return [words for line in (*lines, *spans) for words in _commands_of(line)]


def _commands_of(line: str) -> list[list[str]]:
    """The commands of ours in a line, without assignments before them and what a pipe takes on."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in lexer:
        if set(word) <= set("|&;<>"):
            found.append([])
        else:
            found[-1].append(word)
    return [ours for words in found if (ours := _from_program(words))]


def _from_program(words: list[str]) -> list[str]:
    names = [Path(word).name for word in words]
    for at, name in enumerate(names):
        if name in PROGRAMS:
            return [name, *words[at + 1 :]]
    return []


def links(text: str) -> list[str]:
    """Targets of the links that lead to files of ours, without what follows a #."""
    pairs = _LINK.findall(_FENCE.sub("", text))
    found = ((one or other).partition("#")[0] for one, other in pairs)
    return [target for target in found if target and "://" not in target]


# --- blocks


# The sizes in the models' config.json, all that memory depends on.
_QWEN = {
    "model_type": "qwen2",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "max_position_embeddings": 32768,
    "torch_dtype": "bfloat16",
}
_MODELS = {
    "0.5B": (896, 4864, 24, 14, 2, 151936, True),
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "3B": (2048, 11008, 36, 16, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
}
_KEYS = (
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "vocab_size", "tie_word_embeddings"),
)
# Config, model, and overrides of the rows.
_ROWS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("ultra_light", "0.5B", {}),
    ("smoke_test", "0.5B", {}),
    ("medium", "1.5B", {}),
    ("default", "1.5B", {}),
    ("prod", "1.5B", {}),
    ("medium", "3B", {}),
    ("default", "3B", {}),
    ("medium", "7B", {}),
    ("default", "7B", {}),
    ("medium", "0.5B", {"train_type": "full"}),
    ("medium", "1.5B", {"train_type": "full"}),
)
# Memory of the machine, and the half of it that the table plans with; GB.
_MACHINES = ((8, 4), (16, 8), (32, 16), (64, 32))
# What the READMEs name for a machine: the config, and the model to train with it.
_FITS = {
    8: (("ultra_light", "0.5B"), ("medium", "1.5B")),
    16: (("default", "1.5B"), ("medium", "7B")),
    32: (("prod", "1.5B"), ("default", "7B")),
}
GB = 10**9


def memory_table() -> str:
    """The estimated peak of shipped configs, by model and memory, as cut on a GPU."""
    heads = [f"{machine} GB Mac ({budget} GB)" for machine, budget in _MACHINES]
    rows = ["| config | model | " + " | ".join(heads) + " |", "|---" * (2 + len(heads)) + "|"]
    for name, model, overrides in _ROWS:
        items = [f"{key}={value}" for key, value in overrides.items()]
        cells = [_cell(name, model, tuple(items), budget * GB) for _, budget in _MACHINES]
        words = ", ".join([f"`{name}`", *(f"`{item}`" for item in items)])
        rows.append(f"| {words} | {model} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def fits_table(machine: str, fits: str) -> str:
    """What fits which Mac, in short; the figures are those of `memory_table`."""
    rows = [f"| {machine} | {fits} |", "|---|---|"]
    for size, budget in _MACHINES:
        cells = [
            f"`{name}` {model} ({_planned(name, model, (), budget * GB)[0] / GB:.1f} GB)"
            for name, model in _FITS.get(size, ())
        ]
        if cells:
            rows.append(f"| {size} GB | {', '.join(cells)} |")
    return "\n".join(rows)


def _cell(name: str, model: str, items: tuple[str, ...], budget: int) -> str:
    peak, plan = _planned(name, model, items, budget)
    if peak > budget:
        return f"no: {peak / GB:.1f}"
    return f"{peak / GB:.1f}, {plan.micro_batch_size}{' r' if plan.grad_checkpoint else ''}"


@cache
def _planned(
    name: str, model: str, items: tuple[str, ...], budget: int
) -> tuple[float, memory.MemoryPlan]:
    """The estimated peak of a config in bytes, and how its update is cut."""
    cfg, shape = _sized(name, model, items)
    plan = memory.choose_plan(shape, cfg, budget)
    settled = replace(cfg, **plan.settings)  # type: ignore[arg-type]
    rows = {"rollout_rows": plan.rollout_rows, "eval_rows": plan.eval_rows}
    return estimate(shape, settled, cfg.max_prompt_length, **rows).peak_bytes, plan


@cache
def _sized(name: str, model: str, items: tuple[str, ...]) -> tuple[MLXGRPOConfig, Shape]:
    # As on a Mac, wherever the documents are made: on a CPU auto is float32.
    items = ("dtype=bfloat16", *items)
    cfg = resolve_config(str(ROOT / "configs" / f"{name}.toml"), list(items))
    sizes = dict(zip(_KEYS, _MODELS[model], strict=True))
    return cfg, model_shape({**_QWEN, **sizes}, cfg)


def config_fields() -> str:
    """Every config field, a table for each group."""
    return "\n\n".join(map(_group_of_fields, GROUPS))


def _group_of_fields(group: str) -> str:
    rows = ["| field | type | default | allowed | unit | meaning |", "|---" * 6 + "|"]
    rows += [_field_row(info) for info in FIELDS.values() if info.group == group]
    return f"## {group.capitalize()}\n\n" + "\n".join(rows)


def _field_row(info: FieldInfo) -> str:
    default = " ".join(format_value(info.default).split())
    name = f"`{info.name}`" + ("" if info.hashed else " °")
    cells = (name, info.type, f"`{default}`" if default else "empty", info.allowed, info.unit)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (*cells, info.help)) + " |"


def first_line(module: Path) -> str:
    """What a module says of itself, without the full stop."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".:")


def order_of_rooms() -> str:
    """The rooms of each package, each of which imports only those to its right."""
    rows = [
        f"**{package}**: " + " → ".join(f"`{room}`" for room in order)
        for package, order in ORDER.items()
    ]
    return "\n\n".join(rows)


def rooms(package: str) -> str:
    """Every file of a package with its first line, room by room in their order."""
    folder = ROOT / package
    parts = [_files(folder)]
    for name in ORDER[package]:
        if (folder / name).is_dir():
            idea = first_line(folder / name / "__init__.py")
            parts += [f"### {package}/{name}/", f"{idea}.", _files(folder / name)]
    return "\n\n".join(part for part in parts if part)


def _files(folder: Path) -> str:
    """A line for each file of a folder, with a link to it."""
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    return "\n".join(
        f"- [`{path.name}`](../{path.relative_to(ROOT).as_posix()}): {first_line(path)}"
        for path in files
    )


def shown(heading: str) -> str:
    """The first output that the README shows under a heading."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return "```text\n" + fences(readme.partition(f"\n## {heading}\n")[2], "text")[0] + "```"


def blocks() -> dict[str, tuple[Path, str]]:
    """Name -> document and content of each block that is made."""
    wanted = memory._wanted_tokens
    # The table is about Macs, wherever it is made.
    memory._wanted_tokens = lambda: memory.GPU_TOKENS
    try:
        table = memory_table()
        fits = fits_table("Mac", "config and model (estimated peak)")
        fits_zh = fits_table("Mac", "配置与模型（估计峰值）")
    finally:
        memory._wanted_tokens = wanted
    architecture = ROOT / "docs" / "architecture.md"
    return {
        "order": (architecture, order_of_rooms()),
        **{f"rooms of {package}": (architecture, rooms(package)) for package in ORDER},
        "memory": (ROOT / "docs" / "memory.md", table),
        "config-fields": (ROOT / "docs" / "config-fields.md", config_fields()),
        "fits": (ROOT / "README.md", fits),
        "fits-zh": (ROOT / "README.zh.md", fits_zh),
        "session": (ROOT / "README.zh.md", shown("A session")),
    }


def rendered(text: str, name: str, block: str) -> str:
    """The document with one block made anew."""
    pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
    return re.sub(pattern, lambda m: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL)


if __name__ == "__main__":
    for block_name, (document, content) in blocks().items():
        before = document.read_text(encoding="utf-8")
        document.write_text(rendered(before, block_name, content), encoding="utf-8")
