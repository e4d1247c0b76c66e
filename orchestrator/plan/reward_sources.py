"""What a reward of the user's is made of: the Python files that it imports, and their packages.

Read off the files' import statements, without running them, and found as the plug-in's process
finds them: what is installed first, then the reward's own folder. What a reward reads or imports
only while it runs cannot be seen from here.
"""

import ast
import functools
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path

from grpo_core.config import named_path


@dataclass
class Sources:
    """The `files` of rewards (absolute), and the distributions of the `packages` that they use."""

    files: dict[Path, None] = field(default_factory=dict)
    packages: dict[str, None] = field(default_factory=dict)


def reward_sources(rewards: tuple[str, ...], cwd: str) -> Sources:
    """The sources of those rewards that are no built-in ones, `file.py:f` or `package.module:f`."""
    found = Sources()
    for reward in rewards:
        place, _, function = reward.rpartition(":")
        if place.endswith(".py"):
            path = Path(cwd, named_path(place))
            _follow(path, path.parent, found)
        elif place and function:
            _follow_module(place, Path(cwd), found)
    return found


def _follow(path: Path, root: Path, found: Sources) -> None:
    """Note a file, and all that it imports, in turn; `root` is where its own modules lie."""
    if path in found.files or not path.is_file():
        return
    found.files[path] = None
    for name in _imported(path, root):
        _follow_module(name, root, found)


def _follow_module(name: str, root: Path, found: Sources) -> None:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return
    if packages := _distributions().get(top):
        found.packages |= dict.fromkeys(packages)
        if not _is_ours(top):
            return
    place = _folder_of(top) or root
    parts = name.split(".")
    # Each package on the way runs its __init__.py.
    for end in range(1, len(parts) + 1):
        module = place.joinpath(*parts[:end])
        _follow(module.with_suffix(".py"), place, found)
        _follow(module / "__init__.py", place, found)


def _imported(path: Path, root: Path) -> Iterator[str]:
    """The modules that a file may import, by their whole names."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except (OSError, SyntaxError, ValueError):
        return
    here = path.parent.relative_to(root).parts if path.is_relative_to(root) else ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = here[: len(here) - node.level + 1] if node.level else ()
            base = [*up, *(node.module.split(".") if node.module else ())]
            if base:
                yield ".".join(base)
            # What is imported from a package may be a module of it.
            yield from (".".join([*base, alias.name]) for alias in node.names if alias.name != "*")


def _folder_of(top: str) -> Path | None:
    """The folder in which an importable package or module lies; None for what is not installed."""
    try:
        spec = PathFinder.find_spec(top, [entry for entry in sys.path if entry])
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None:
        return None
    origin = Path(spec.origin)
    return origin.parent.parent if origin.name == "__init__.py" else origin.parent


def _is_ours(top: str) -> bool:
    """Whether a package lies outside of where packages are installed, as an editable one does."""
    place = _folder_of(top)
    return place is not None and not {"site-packages", "dist-packages"} & set(place.parts)


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return {top: sorted(set(names)) for top, names in metadata.packages_distributions().items()}
