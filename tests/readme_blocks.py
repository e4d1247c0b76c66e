"""The README's generated blocks: the tree of the source and the table of config fields.

`python -m tests.readme_blocks` writes them; `test_readme.py` holds the README to them.
"""

import ast
import re
from pathlib import Path

from grpo_core.config import FIELDS, format_value

ROOT = Path(__file__).parents[1]
TOP = (
    ("configs/", "complete training configs; line 1 of each says purpose and cost"),
    ("sweeps/", "sweep specs: a base config plus axes"),
    ("docs/", "guide from MLX-GRPO, spec grammar, fields, report, memory, speed, JSON, crashes"),
    ("tests/", "unit/ mirrors the modules, integration/ and crash/ use real processes"),
    ("benchmarks/", "how fast, how much memory, measured side by side"),
    (".ci/run", "lint, types, the test command above, and the wheel's demo"),
)
PACKAGES = (
    ("grpo_core", "trains one run; knows nothing of queues"),
    ("orchestrator", "expands, queues, launches, shows; never imports mlx"),
)


def first_line(module: Path) -> str:
    """What a module says of itself, without the full stop."""
    text = ast.get_docstring(ast.parse(module.read_text())) or ""
    return text.splitlines()[0].rstrip(".:") if text else ""


def tree() -> str:
    """The source tree with each module's first line."""
    lines = []
    for package, words in PACKAGES:
        lines += [f"{package + '/':<22}{words}", *modules_of(ROOT / package)]
        for room in sorted(path.parent for path in (ROOT / package).glob("*/__init__.py")):
            name = f"{package}/{room.name}/"
            lines += [f"{name:<22}{first_line(room / '__init__.py')}", *modules_of(room)]
    lines += [f"{name:<22}{words}" for name, words in TOP if (ROOT / name).exists()]
    return "```text\n" + "\n".join(lines) + "\n```"


def modules_of(folder: Path) -> list[str]:
    """A line for each file of a room."""
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    return [f"  {path.name:<20}{first_line(path)}" for path in files]


def fields_table() -> str:
    """Every field with default, what is allowed, and meaning."""
    rows = ["| field | default | allowed | meaning |", "|---|---|---|---|"]
    for info in FIELDS.values():
        default = format_value(info.default)
        default = f"`{default}`" if len(default) < 60 and "\n" not in default else "(see fields.py)"
        unit = f" ({info.unit})" if info.unit else ""
        cells = (f"`{info.name}`", default, info.allowed or info.type, info.help + unit)
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def rendered(text: str) -> str:
    """The README with its blocks made anew."""
    for name, block in (("tree", tree()), ("fields", fields_table())):
        pattern = rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)"
        text = re.sub(
            pattern, lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text, flags=re.DOTALL
        )
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    readme.write_text(rendered(readme.read_text()))
