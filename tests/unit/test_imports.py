"""Who may import whom, and that the commands start without the heavy packages."""

import ast
import subprocess
import sys
from collections import defaultdict

import pytest

from orchestrator.cli.group import SECTIONS
from tests.queue_kit import planned, submit
from tests.rooms import ORDER, ROOT, backwards, imported, imported_at_load, modules, room_of

HEAVY = ("mlx", "mlx_lm", "transformers", "datasets", "optuna", "numpy", "torch", "pandas")

# Of our own modules, by package; what is not listed here is free.
ALLOWED_FROM_GRPO_CORE = (
    *("blas.threads", "config", "errors", "terminal"),
    *("run.protocol", "run.atomic", "run.locks", "run.macos", "run.surroundings"),
    "run.device_choice",
)
FORBIDDEN_IN_GRPO_CORE = {"orchestrator", "click", "sqlite_utils"}


# Of our own: they take a third of the time of a status, which needs none of them.
NOT_FOR_A_STATUS = (
    *("grpo_core.config", "orchestrator.spec", "orchestrator.plan", "orchestrator.stopping"),
    *("orchestrator.results.leaderboard", "orchestrator.views.json_shapes", "platformdirs"),
)


def loaded_by(statement, packages=HEAVY):
    """Which of these packages a fresh process has loaded after a statement."""
    code = f"import sys; {statement}\nprint([m for m in {packages!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return ast.literal_eval(out.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "statement",
    [
        "import orchestrator.cli",
        "import orchestrator.worker.worker, orchestrator.plan.expand, orchestrator.views.live",
        "import grpo_core.config, grpo_core.errors",
        "import grpo_core.run.protocol, grpo_core.run.atomic, grpo_core.run.locks",
        "import grpo_core.run.macos, grpo_core.run.surroundings, grpo_core.blas.threads",
        "from orchestrator.cli import main; main(['fields'])",
    ],
)
def test_the_orchestrator_loads_nothing_heavy(statement):
    """A status must come at once, and a worker must leave the GPU to its trainer."""
    assert loaded_by(statement) == []


def test_a_status_loads_what_it_needs(tmp_path):
    """It is asked for all the time."""
    submit(tmp_path, planned("a"))
    packages = (*HEAVY, *NOT_FOR_A_STATUS)
    assert loaded_by("from orchestrator.cli import main; main(['status'])", packages) == []


def test_every_command_can_be_imported_without_anything_heavy():
    """No command hides a heavy import at its top."""
    commands = [path.stem for path in modules("orchestrator/cli") if path.stem != "__init__"]
    assert loaded_by("import " + ", ".join(f"orchestrator.cli.{c}" for c in commands)) == []


@pytest.mark.parametrize("path", modules("orchestrator"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_orchestrator_knows_eight_modules_of_the_trainer(path):
    """The seam between the two packages, all of it light to load."""
    used = {name for name in imported(path) if name.split(".")[0] == "grpo_core"}
    seam = tuple(f"grpo_core.{name}" for name in ALLOWED_FROM_GRPO_CORE)
    # `from grpo_core.run import x` names the folder too.
    assert [name for name in used - {"grpo_core.run"} if not name.startswith(seam)] == []
    assert not {name.split(".")[0] for name in imported(path)} & {
        "mlx",
        "mlx_lm",
        "transformers",
        "datasets",
    }


@pytest.mark.parametrize("path", modules("grpo_core"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_trainer_knows_nothing_of_queues(path):
    """A run can be trained without the orchestrator."""
    assert not {name.split(".")[0] for name in imported(path)} & FORBIDDEN_IN_GRPO_CORE


def test_every_room_has_its_place():
    """A new folder, or module at the root, is put into the order; a file in a room need not."""
    for package, order in ORDER.items():
        found = {room_of(path) for path in modules(package)} - {"__init__"}
        assert found == set(order)


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way(package):
    """Each room imports only rooms to its right."""
    assert backwards(package) == []


def test_no_command_imports_another():
    """What two commands need stands beside them, or in the rooms that they call."""
    commands = {f"orchestrator.cli.{name}" for s in SECTIONS.values() for name, _ in s.values()}
    assert len(commands) > 10
    wrong = [
        f"{path.name} -> {name}"
        for path in modules("orchestrator/cli")
        for name in imported(path)
        if name in commands
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ORDER)
def test_an_import_within_a_function_says_why(package):
    """Imports stand at the top; each that does not has its reason on its line or above it."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in modules(package)
        for node in late_imports(path)
        if not has_comment(path.read_text().splitlines(), node.lineno)
    ]
    assert silent == []


def late_imports(path):
    """The import statements within functions."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for function in ast.walk(ast.parse(path.read_text())):
        if isinstance(function, functions):
            for node in ast.walk(function):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    yield node


def has_comment(lines, number):
    """Whether a line, or the one above the imports that it belongs to, holds a comment."""
    at = number - 1
    while at >= 0 and lines[at].strip().startswith(("import ", "from ")):
        if "#" in lines[at]:
            return True
        at -= 1
    return lines[at].strip().startswith("#")


@pytest.mark.parametrize("package", ORDER)
def test_no_two_public_classes_of_a_package_have_one_name(package):
    """Whoever searches for a name finds the one thing that it is."""
    places = defaultdict(list)
    for path in modules(package):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_imports_never_loop():
    """Each module's imports at the top can be drawn without a circle."""
    graph = {}
    for path in [*modules("orchestrator"), *modules("grpo_core")]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = {n for n in imported_at_load(path) if n != name}
    done, open_now = set(), []

    def visit(name):
        assert name not in open_now, " -> ".join([*open_now, name])
        if name in done or name not in graph:
            return
        open_now.append(name)
        for used in graph[name]:
            visit(used)
        open_now.pop()
        done.add(name)

    for name in graph:
        visit(name)
