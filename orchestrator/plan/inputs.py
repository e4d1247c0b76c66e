"""The files and folders that a configuration reads, and which of them are not there.

Looks at names, and into a reward's file for its function; trains and imports nothing. A model or a
data set of the hub cannot be looked at from here, and is no fault.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grpo_core.config import did_you_mean, is_data_file, named_path, nearest_file, set_field
from orchestrator.errors import SpecError
from orchestrator.plan.expand import Expansion
from orchestrator.plan.reward_sources import Sources, reward_sources
from orchestrator.space.distributions import Choice
from orchestrator.spec.document import Faults
from orchestrator.spec.positions import KeyPath
from orchestrator.spec.spec import Spec

# Of a sweep from before the second field there is nothing.
_SCORERS = ("rewards", "eval_rewards")
LATER = "; --later where it is still to come"


def path_of(name: str, cwd: str) -> Path:
    """Where a file or folder lies that a configuration of `cwd` names so."""
    return Path(cwd, named_path(name))


Look = Callable[[tuple[str, ...], str], Sources]


def inputs(values: Mapping[str, Any], cwd: str, look: Look = reward_sources) -> tuple[str, ...]:
    """What a configuration reads that may lie on this machine, as seen from `cwd`.

    Rewards with all that they import; `look` finds that, such as one that remembers.
    """
    models = [values["model_name"], values["adapter_path"]]
    sources = look(scorers(values), cwd).files
    away = [file for _, file, _ in _rewards(values) if not path_of(file, cwd).is_file()]
    return tuple(
        dict.fromkeys(
            [*_data(values), *(_seen_from(cwd, path) for path in sources), *away]
            + [name for name in models if name and path_of(name, cwd).is_dir()]
        )
    )


def scorers(values: Mapping[str, Any]) -> tuple[str, ...]:
    """What a configuration scores completions with, in training and held-out."""
    return tuple(name for field in _SCORERS for name in values.get(field, ()))


def _seen_from(cwd: str, path: Path) -> str:
    return str(path.relative_to(cwd) if path.is_relative_to(cwd) else path)


def _data(values: Mapping[str, Any]) -> list[str]:
    names = (values["dataset"], values["eval_dataset"])
    return [name for name in names if is_data_file(str(name))]


def _rewards(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(field, file, function) of each reward that is a file of the user's."""
    for field in _SCORERS:
        for name in values.get(field, ()):
            file, _, function = name.rpartition(":")
            if file.endswith(".py"):
                yield field, file, function


def missing(values: Mapping[str, Any], cwd: str) -> Iterator[tuple[str, str]]:
    """(field, fault) for everything that a configuration reads and that is not there."""
    for key in ("dataset", "eval_dataset"):
        name = str(values[key])
        if is_data_file(name) and not path_of(name, cwd).is_file():
            yield key, f"{name!r}: no such file{_near(name, cwd)}"
    for field, file, function in _rewards(values):
        path = path_of(file, cwd)
        if not path.is_file():
            yield field, f"{file + ':' + function!r}: no file {file}{_near(file, cwd)}"
        elif fault := _function_fault(path, function):
            yield field, f"{file + ':' + function!r}: {fault}"
    for key in ("model_name", "adapter_path"):
        name = values[key]
        if name and _names_folder(key, name) and not path_of(name, cwd).is_dir():
            yield key, f"{name!r}: no such folder (looked from {cwd})"


def _names_folder(key: str, name: str) -> bool:
    """Whether it can be nothing but a folder; `a/b` may be a model of the hub."""
    local = name.startswith(("/", ".", "~")) or name.count("/") > 1
    return key == "adapter_path" or local


def _near(name: str, cwd: str) -> str:
    path = path_of(name, cwd)
    near = nearest_file(path, sorted(path.parent.glob(f"*{path.suffix}")))
    place = f" (looked from {cwd})"
    return f"; the nearest is {near.name}{place}" if near else place


def _function_fault(path: Path, function: str) -> str:
    """What shows of a reward's file without running it; empty where all is well, or may be."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError as e:
        return f"line {e.lineno} is no Python: {e.msg}"
    except (OSError, ValueError) as e:
        return f"cannot be read: {e}"
    defined = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = [node.name for node in tree.body if isinstance(node, defined)]
    # Anything else at the top, such as an import or an `if`, may make a name too.
    simple = (*defined, ast.ClassDef, ast.Expr)
    others = [node for node in tree.body if not isinstance(node, simple)]
    if function in names or any(_may_bind(node, function) for node in others):
        return ""
    if any(isinstance(node, ast.ClassDef) and node.name == function for node in tree.body):
        return ""
    known = f"it has {', '.join(names)}" if names else "it has none"
    return f"no function {function!r} there; {known}{did_you_mean(function, names)}"


def _may_bind(node: ast.stmt, name: str) -> bool:
    """Whether a statement at the top can give something this name."""
    for part in ast.walk(node):
        if isinstance(part, ast.alias) and (part.asname or part.name) in (name, "*"):
            return True
        if isinstance(part, ast.Name) and part.id in (name, "globals"):
            return True
        if isinstance(part, ast.FunctionDef) and part.name == name:
            return True
    return False


# --- of a sweep


def refuse_missing(expansion: Expansion, cwd: str) -> None:
    """SpecError with every file and folder that runs of a sweep would read and that is not there.

    What a search may choose counts too.
    """
    spec = expansion.spec
    faults = Faults(spec.source, spec.faults.positions)
    base = {**vars(spec.base.config), **spec.fixed}
    found = [
        fault for setting in expansion.settings for fault in missing(base | setting.overrides, cwd)
    ]
    # What else is in the setting of a choice will be chosen too.
    for choice in _choices(spec):
        found += [fault for fault in missing(base | choice, cwd) if fault[0] in choice]
    for key, fault in found:
        faults.add(_place(spec, key, faults), f"{fault}{LATER}", " = ")
    if faults.found:
        raise SpecError(*faults.lines())


def _choices(spec: Spec) -> Iterator[dict[str, Any]]:
    for parameter in spec.parameters:
        if isinstance(parameter.domain, Choice):
            yield from map(parameter.assign, parameter.domain.values)


def _place(spec: Spec, key: str, faults: Faults) -> KeyPath:
    """Where the spec gives a field; else where it names its base, which does."""
    if any(set_field(item) == key for item in spec.overrides):
        return ("--set", key)
    tables = [path for path in faults.positions if path[-1:] == (key,)]
    return tables[0] if tables else ("config", key)
