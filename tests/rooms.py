"""The rooms of the code: which folders there are, in what order, and who imports whom.

    python -m tests.rooms            rooms, arrows between them, the fullest folder
    python -m tests.rooms --arrows   each arrow with the imports behind it

A room is a folder of a package or a module at its root. Each imports only rooms to its right in
`ORDER`; `test_imports.py` holds that, and docs/architecture.md says what each room is for.
"""

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = {
    "orchestrator": (
        *(
            "__main__",
            "cli",
            "ui",
            "report",
            "views",
            "deep_doctor",
            "deep_judgement",
            "doctor",
            "starting",
            "trackers",
            "cluster",
            "worker",
            "submit",
        ),
        *("plan", "queue", "spec", "stopping", "results", "search", "space", "system", "run"),
        *("text", "names", "errors"),
    ),
    "grpo_core": (
        *(
            "__main__",
            "result",
            "deep_checks",
            "dry_run",
            "trainer",
            "training_loop",
            "update",
            "evaluate",
            "rollout",
        ),
        *("model", "rewards", "data", "run", "config", "blas", "errors", "terminal"),
    ),
}


def modules(package: str) -> list[Path]:
    """Every source file of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever the statement stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        yield from imported_by(node, path)


def imported_at_load(path: Path) -> Iterator[str]:
    """The modules that are imported when a file is loaded."""
    for node in ast.parse(path.read_text()).body:
        yield from imported_by(node, path)


def imported_by(node: ast.AST, path: Path) -> Iterator[str]:
    """What one statement imports; of `from a import b` both `a` and `a.b`."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0 and node.module, f"{path}: write imports whole"
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path: Path) -> str:
    """The folder below the package, or the module itself at the package's root."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def arrows(package: str) -> dict[tuple[str, str], list[str]]:
    """(room, imported room) -> `file -> module` of each import behind it."""
    found: dict[tuple[str, str], list[str]] = {}
    for path in modules(package):
        room = room_of(path)
        for name in sorted(set(imported(path))):
            parts = name.split(".")
            if parts[0] != package or len(parts) < 2 or parts[1] == room:
                continue
            if parts[1] in ORDER[package]:
                where = f"{path.relative_to(ROOT)} -> {name}"
                found.setdefault((room, parts[1]), []).append(where)
    return found


def backwards(package: str) -> list[str]:
    """The imports that lead to the left, or from a room that is not in the order."""
    order = ORDER[package]
    wrong = []
    for (room, used), where in arrows(package).items():
        if room == "__init__" or order.index(room) > order.index(used):
            wrong += where
    return wrong


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arrows", action="store_true", help="each arrow with its imports")
    shown = parser.parse_args().arrows
    for package in ORDER:
        found = arrows(package)
        sizes = Counter(path.parent.relative_to(ROOT).as_posix() for path in modules(package))
        folder, most = sizes.most_common(1)[0]
        print(
            f"{package}: {len(ORDER[package])} rooms, {len(found)} arrows between them,"
            f" {len(backwards(package))} backwards; fullest folder {folder} with {most} modules"
        )
        for (room, used), where in sorted(found.items()) if shown else ():
            print(f"  {room} -> {used}")
            for line in where:
                print(f"      {line}")


if __name__ == "__main__":
    main()
