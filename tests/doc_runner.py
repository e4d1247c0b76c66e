"""Runs what the documents say: each shell and Python block, in a folder made for it.

The folder looks like a user's: the shipped configs under their names, but of the embedded model and
two updates, so that nothing is downloaded and nothing takes minutes; the specs that the document
itself shows; a finished sweep `lr` of 12 runs, one that failed, a trained run in outputs/medium.
A block that cannot be run here says why in a comment before it, `<!-- not run: REASON -->`; REASON
is one of `NOT_RUN`.
"""

import os
import re
import select
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomli

from grpo_core.model import tiny
from orchestrator.cli import main
from orchestrator.cluster import serving
from orchestrator.queue.store import Store
from orchestrator.run import Outcome, Run, RunState, Verdict
from orchestrator.system.paths import Home
from orchestrator.worker.serving import worker_alive
from tests.cluster_kit import free_port
from tests.doc_blocks import ROOT, is_spec
from tests.queue_kit import eventually
from tests.sweep_kit import add_sweep, finish_next, planned_run, write_run

# Why a block may be left out.
NOT_RUN = {
    "installs": "downloads packages; .ci/run does the same",
    "it serves until Ctrl-C": "test_ui.py starts and ends it",
    "wants a trained run": "test_result.py does the same",
    "what people did before": "another program's",
    "fetches a real model": "93 MB and half an hour; `pytest -m slow` does the like",
    "takes ten minutes": "tries every family of mlx-lm; `pytest -m slow` does the same",
    "needs a Mac": "Metal, launchd or the desktop of macOS",
}
DEADLINE_S = 120.0
FINISHED = ("lr", "hyperparam_sweep")

_BLOCK = re.compile(
    r"(?:^<!-- (?P<tag>[^\n]*?) -->\n)?"
    r"^```(?P<language>bash|sh|console|python)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
_TOML = re.compile(r"^```toml\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SPEC_NAME = re.compile(r"^#.*?\b(sweeps/\w+\.toml)")
_ROW = re.compile(r"^\|.*\|$")
_COMMAND = re.compile(r"`((?:grpo-sweep|mlx-grpo)(?: [^`<>|&;]+)?)`")
# What has to come before a command of a table, where that is not in the same row.
_BEFORE = {"grpo-sweep logs -f": "grpo-sweep submit sweeps/lr.toml --start\n"}
# Its minutes are in .ci/run, and its words in the README.
_TOO_LONG = ("grpo-sweep demo",)
# What goes on until somebody stops it.
_ENDLESS = re.compile(r"^(?:grpo-sweep (?:watch|logs (?:\S+ )*-f)|tail -[fF])\b")
# Two updates of two short completions, whatever the config is called.
_STAND_IN = """
model_name = "builtin/tiny"
dataset = "builtin/arithmetic"
system_prompt = ""
assistant_prefix = ""
quantize_for_rollouts = false
learning_rate = 1e-3
max_train_samples = 4
batch_size = 2
gradient_accumulation_steps = 1
num_generations = 2
max_new_tokens = 16
eval_steps = 1000
eval_samples = 4
eval_every_updates = 0
eval_max_new_tokens = 16
save_steps = 1
"""


@dataclass(frozen=True)
class Block:
    """A block of a document; `not_run` says why it is left out, if it is."""

    document: str
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def where(self) -> str:
        """`docs/specs.md:5`."""
        return f"{self.document}:{self.line}"


def blocks(document: str) -> list[Block]:
    """The shell and Python blocks of a document, in its order; `line` is that of the first line."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = []
    for match in _BLOCK.finditer(text):
        tag = match["tag"] or ""
        line = text.count("\n", 0, match.start("text")) + 1
        reason = tag.removeprefix("not run: ") if tag.startswith("not run: ") else None
        found.append(Block(document, line, match["language"], match["text"], reason))
    return found


def rows(document: str) -> list[Block]:
    """The commands in a document's tables, each as a block of its own."""
    text = (ROOT / document).read_text(encoding="utf-8")
    found = [
        (number, command)
        for number, line in enumerate(text.splitlines(), 1)
        if _ROW.match(line)
        for command in _COMMAND.findall(line)
    ]
    return [
        Block(document, number, "bash", _BEFORE.get(command, "") + command + "\n", None)
        for number, command in found
        if command not in _TOO_LONG
    ]


# --- the folder


@dataclass(frozen=True)
class World:
    """A user's folder and home."""

    folder: Path
    env: dict[str, str]

    @property
    def home(self) -> Home:
        """The queue."""
        return Home(Path(self.env["GRPO_SWEEP_HOME"]))


@contextmanager
def a_world(root: Path):
    """The folder in which the blocks are run; at the end nothing is left running."""
    folder, home = root / "project", root / "home"
    folder.mkdir(parents=True)
    home.mkdir()
    own = {
        "HOME": str(home),
        "GRPO_SWEEP_HOME": str(home / "queue"),
        "GRPO_GPU_LOCK": str(root / "gpu.lock"),
        "HF_HUB_OFFLINE": "1",
        # What `report --open` starts does nothing.
        "BROWSER": "true",
        "PYTHONPATH": str(ROOT),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    world = World(folder, {**os.environ, **own})
    _write_configs(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        for name in ("MLX_GRPO_CONFIG", "NO_COLOR", "FORCE_COLOR"):
            patch.delenv(name, raising=False)
            world.env.pop(name, None)
        patch.chdir(folder)
        for name in FINISHED:
            _finished_sweep(folder, name)
        add_sweep(folder, [planned_run("broken", 0, {})], "broken")
        finish_next(Outcome(Verdict.OOM, "out of memory", exit_code=4))
    words = [sys.executable, "-m", "grpo_core", "--config", "configs/medium.toml"]
    subprocess.run(words, cwd=folder, env=world.env, check=True, capture_output=True)
    try:
        yield world
    finally:
        settle(world)


def _write_configs(folder: Path) -> None:
    (folder / "configs").mkdir()
    for shipped in (ROOT / "configs").glob("*.toml"):
        kept = tomli.loads(shipped.read_text(encoding="utf-8"))
        names = f'output_dir = "{kept["output_dir"]}"\nrun_name = "{kept["run_name"]}"\n'
        (folder / "configs" / shipped.name).write_text(_STAND_IN + names)
    tell_me = folder / "tell-me.sh"
    tell_me.write_text('#!/bin/sh\necho "$GRPO_SWEEP_TEXT" >> told.txt\n')
    tell_me.chmod(0o755)
    # A folder goes before the hub: what is named like a hub model is the embedded one.
    for name in ("Qwen2.5-0.5B-Instruct", "Qwen2.5-1.5B-Instruct"):
        shutil.copytree(tiny.model_path(), folder / "Qwen" / name)


def write_specs(document: str, folder: Path) -> None:
    """Each spec under the name that its first line gives it; the README's where none does."""
    shutil.rmtree(folder / "sweeps", ignore_errors=True)
    (folder / "sweeps").mkdir()
    for source in ("README.md", document):
        for body in _TOML.findall((ROOT / source).read_text(encoding="utf-8")):
            named = _SPEC_NAME.match(body)
            if named and is_spec(tomli.loads(body)):
                (folder / named[1]).write_text(body)
    for name in ("long", "quick"):
        shutil.copy(folder / "sweeps" / "lr.toml", folder / "sweeps" / f"{name}.toml")


def _finished_sweep(folder: Path, name: str) -> None:
    """The README's sweep without its largest rate, its results written by a formula."""
    spec = _TOML.findall((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    shorter = spec.replace(", 1e-4]", "]")
    assert shorter != spec
    path = folder / "first" / f"{name}.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(shorter)
    assert main(["submit", str(path)]) == 0
    while _any_queued():
        finish_next(write=_write_results)


def _write_results(run: Run) -> None:
    rate, group = run.overrides["learning_rate"], run.overrides["num_generations"]
    write_run(run.folder, 3e3 * rate + 0.02 * group, 200, run.seed)
    (run.folder / "checkpoint-200").mkdir()


def _any_queued() -> bool:
    with Store.open() as store:
        return bool(store.queries.runs(states={RunState.QUEUED}))


def settle(world: World) -> None:
    """Stop the worker and forget what waits: the next block finds the queue as it was."""
    ours = (world.home.cluster_lock, *map(world.home.node_lock, serving.local_nodes(world.home)))
    for lock in filter(serving.running, ours):
        serving.stop(lock, lock.stem)
    pid = worker_alive(world.home)
    for number in (signal.SIGTERM, signal.SIGTERM) if pid else ():
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    eventually(lambda: worker_alive(world.home) is None)
    with Store.open(world.home.db) as store:
        waiting = [
            run.id
            for run in store.queries.runs()
            if run.state in (RunState.QUEUED, RunState.PAUSED)
        ]
    for verb in ("cancel", "rm") if waiting else ():
        words = [sys.executable, "-m", "orchestrator", verb, *map(str, waiting)]
        subprocess.run(words, env=world.env, cwd=world.folder, check=True, capture_output=True)


# --- running


def run(block: Block, world: World) -> None:
    """Run a block as a reader would; AssertionError with its place and what it said."""
    write_specs(block.document, world.folder)
    if block.language == "python":
        words = [sys.executable, "-c", block.text]
    else:
        words = ["bash", "-euo", "pipefail", "-c", "\n".join(map(_until_it_speaks, lines(block)))]
    done = subprocess.run(
        words, cwd=world.folder, env=world.env, capture_output=True, text=True, timeout=DEADLINE_S
    )
    said = f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert done.returncode == 0, (
        f"{block.where} exits with {done.returncode}:\n{block.text}\n{said}"
    )
    assert "Traceback" not in done.stderr, f"{block.where}:\n{said}"


def lines(block: Block) -> list[str]:
    """The lines that a reader types: those after the prompt of a console."""
    found = block.text.splitlines()
    if block.language == "console":
        return [line[2:] for line in found if line.startswith("$ ")]
    return found


def typed(block: Block) -> tuple[str, ...]:
    """What a reader types, without the comments."""
    return tuple(re.sub(r"(^|\s+)#.*", "", line) for line in lines(block))


def _until_it_speaks(line: str) -> str:
    """A command without an end, ended by Ctrl-C after its first line.

    A scheduler listens on a port that is free, whoever else runs the documents here.
    """
    if line.startswith("grpo-sweep cluster up"):
        return f"{line.partition('#')[0]} --host 127.0.0.1 --port {free_port()}"
    if not _ENDLESS.match(line):
        return line
    return f"{sys.executable} -m tests.doc_runner {line}"


def first_line_of(words: list[str]) -> int:
    """Run a command until it has printed, then interrupt it; 0 where it ends as one should."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if select.select([process.stdout], [], [], 60)[0]:
        print(process.stdout.readline(), end="")
    else:
        print("said nothing within a minute", file=sys.stderr)
        process.kill()
    process.send_signal(signal.SIGINT)
    code = process.wait(30)
    return 0 if code in (0, 130, -signal.SIGINT) else 1


if __name__ == "__main__":
    sys.exit(first_line_of(sys.argv[1:]))
