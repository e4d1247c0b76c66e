"""What a node must know and have to carry out an attempt: its order, and the files that go there.

Looks at the run and at the head's files; sends nothing. Files go by the names that the
configuration has for them, so that it stays what it is, to its hash. A run that was trained before
goes on from what the head has of it: its logs, its newest whole checkpoint, and the best one.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import grpo_core.errors
import orchestrator.errors
from grpo_core.run import protocol
from grpo_core.run.atomic import read_json
from orchestrator.errors import SweepError
from orchestrator.plan.inputs import inputs, path_of, scorers
from orchestrator.plan.reward_sources import reward_sources
from orchestrator.run import Attempt, Run, Sweep
from orchestrator.spec.base_config import resolved_base
from orchestrator.system.paths import RunPaths
from orchestrator.system.sums import digest, whole_weights
from orchestrator.worker.launcher import halvings
from orchestrator.worker.nodes import Input, Order

# A model has some dozens; more is a folder that was not meant.
_MOST_FILES = 2000
_OURS = tuple(
    Path(str(package.__file__)).parent for package in (grpo_core.errors, orchestrator.errors)
)
# Their versions decide on the numbers of a result.
_COMPUTING = ("mlx", "mlx-lm")


class CannotTravel(SweepError):
    """A run that no node can train; the message says why, and what to try."""


@dataclass(frozen=True)
class Outgoing:
    """An order, and where on the head each content is read from, by its sum."""

    order: Order
    sources: Mapping[str, Path]


def prepare(
    run: Run, attempt: Attempt, sweep: Sweep, queue: str, earlier: Sequence[Attempt] = ()
) -> Outgoing:
    """What goes to the node of an attempt, after earlier ones of this queue.

    CannotTravel, and OSError where a file cannot be read.
    """
    values = {**vars(resolved_base(sweep)), **run.overrides}
    sources = reward_sources(scorers(values), run.cwd)
    read = dict(_files_of(inputs(values, run.cwd, lambda *_: sources), run.cwd))
    left = dict(_left_by_earlier(RunPaths(run.folder)))
    order = Order(
        token=attempt.token,
        run=f"{queue}/{run.id}",
        n=attempt.n,
        slot=attempt.slot.partition("/")[2],
        cwd=run.cwd,
        output_dir=run.output_dir,
        config_text=sweep.config_text,
        set=run.set,
        halvings=halvings(earlier, attempt.checkpoint),
        inputs=tuple(read),
        files=tuple(left),
        python_path=tuple(_python_path(sources.files, run.cwd)),
        packages=_versions(sources.packages),
    )
    return Outgoing(order, {file.sha256: path for file, path in (*read.items(), *left.items())})


def _files_of(names: Sequence[str], cwd: str) -> Iterator[tuple[Input, Path]]:
    """The files behind what a configuration names; what is not there the trainer will miss."""
    for name in names:
        path = path_of(name, cwd)
        if path.is_dir():
            yield from _files_in(name, path)
        elif path.is_file() and not any(path.is_relative_to(folder) for folder in _OURS):
            yield _input(name, path), path


def _files_in(name: str, folder: Path) -> Iterator[tuple[Input, Path]]:
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found.append(path)
        if len(found) > _MOST_FILES:
            raise CannotTravel(
                f"{name}: a folder of more than {_MOST_FILES} files cannot go to another machine; "
                "name the folder of the model itself"
            )
    for path in sorted(found):
        yield _input(f"{name.rstrip('/')}/{path.relative_to(folder).as_posix()}", path), path


def _input(name: str, path: Path) -> Input:
    return Input(name, digest(path), path.stat().st_size)


def _left_by_earlier(paths: RunPaths) -> Iterator[tuple[Input, Path]]:
    """What the trainer goes on from: a path is relative to the output folder."""
    for path in (paths.resolved_config, paths.log, paths.samples, paths.result):
        if path.is_file():
            yield _input(path.name, path), path
    for folder in _checkpoints(paths):
        for file in whole_weights(folder):
            name = f"{folder.name}/{file.name}"
            yield Input(name, file.sha256, file.size), folder / file.name


def _checkpoints(paths: RunPaths) -> list[Path]:
    """The newest whole one, and the best one by what that says."""
    newest = next((path for _, path in paths.checkpoints() if whole_weights(path)), None)
    if newest is None:
        return []
    state = read_json(newest / protocol.TRAINER_STATE) or {}
    best = (state.get("best") or {}).get("update")
    named = paths.folder / protocol.checkpoint_name(best) if isinstance(best, int) else newest
    return [newest] if named == newest or not named.is_dir() else [newest, named]


def _python_path(files: Mapping[Path, None], cwd: str) -> Iterator[str]:
    """The folders of Python's path, but for what is installed, from which rewards import."""
    entries = [Path(entry) for entry in sys.path if entry and Path(entry).is_dir()]
    own = [e for e in entries if not {"site-packages", "dist-packages"} & set(e.parts)]
    for entry in own:
        ours = any(folder.is_relative_to(entry) for folder in _OURS)
        if not ours and any(file.is_relative_to(entry) for file in files):
            yield str(entry.absolute())


def _versions(packages: Mapping[str, None]) -> dict[str, str]:
    found = protocol.package_versions((*_COMPUTING, *packages))
    return {name: version for name, version in found.items() if name != "python"}
