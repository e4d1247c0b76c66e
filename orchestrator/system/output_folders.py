"""Output folders of runs: what of them may be deleted, and which lie in each other.

Only files that a trainer writes are ever deleted, by their names (`grpo_core.run.protocol`), and
only while the folder's own lock is held. A folder of another name is never looked into.
"""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from grpo_core.run.atomic import read_json, read_whole_json
from grpo_core.run.locks import LockFault, try_flock
from grpo_core.run.protocol import (
    CONFIG_FILE,
    LOCK_FILE,
    MANIFEST,
    RUN_FILES,
    is_temporary,
    is_weights_file,
    is_weights_folder,
)
from orchestrator.names import folded
from orchestrator.system.paths import RunPaths

# What stays is named, but not by the thousand.
_NAMED = 3


def delete_run(folder: Path, wanted_hash: str | None) -> str:
    """Delete what the trainer of a run has written, and the folder if nothing else is in it.

    Why the folder stays, else an empty text; `wanted_hash` is the hash of the run's configuration,
    where that is known.
    """
    if fault := not_deletable(folder, wanted_hash):
        return fault
    try:
        lock = try_flock(folder / LOCK_FILE)
    except LockFault as e:
        return str(e)
    if lock is None:
        return "a trainer is at work in it"
    try:
        return _delete_own_files(folder)
    except OSError as e:
        return f"{e.filename}: cannot be deleted: {e.strerror}"
    finally:
        os.close(lock)


def not_deletable(folder: Path, wanted_hash: str | None) -> str:
    """Why nothing of a folder may be deleted; empty where it is this run's. Changes nothing."""
    if folder.is_symlink():
        return "a link"
    if not folder.is_dir():
        return "not there; if it lies on another disk, that is not mounted"
    if Path.cwd().resolve().is_relative_to(folder.resolve()):
        return "the current folder lies in it"
    paths = RunPaths(folder)
    if not any(path.exists() for path in (paths.resolved_config, paths.log, paths.result)):
        return "holds no run"
    try:
        found = (read_whole_json(paths.resolved_config) or {}).get("hash")
    except OSError as e:
        return f"{paths.resolved_config}: cannot be read: {e.strerror}"
    if wanted_hash is not None and found is not None and found != wanted_hash:
        return "holds a run with another configuration"
    return ""


def _delete_own_files(folder: Path) -> str:
    """Delete by name, from the inside; what is left, as a sentence."""
    foreign: list[str] = []
    own: list[os.DirEntry[str]] = []
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False) and is_weights_folder(entry.name):
            foreign += _delete_weights(entry)
        elif entry.is_file(follow_symlinks=False) and _is_own_file(entry.name):
            own.append(entry)
        else:
            foreign.append(entry.name)
    # The configuration says whose folder it is, and the lock that it is in use: they go last.
    for entry in sorted(own, key=lambda e: (e.name == LOCK_FILE, e.name == CONFIG_FILE)):
        os.unlink(entry.path)
    if not foreign:
        os.rmdir(folder)
        return ""
    more = f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else ""
    names = ", ".join(sorted(foreign)[:_NAMED])
    return f"what the run wrote is deleted, but not what it did not write: {names}{more}"


def _is_own_file(name: str) -> bool:
    return name in RUN_FILES or is_temporary(name)


def _delete_weights(folder: os.DirEntry[str]) -> list[str]:
    """Delete a checkpoint or the final weights; the paths of what stays."""
    listed = _listed(Path(folder.path))
    stays = []
    # The list goes last, so that a deletion which was cut off can be done again.
    for entry in sorted(_entries(folder.path), key=lambda e: e.name == MANIFEST):
        name = entry.name
        own = name in listed or is_weights_file(name) or is_temporary(name)
        if own and entry.is_file(follow_symlinks=False):
            os.unlink(entry.path)
        else:
            stays.append(f"{folder.name}/{name}")
    if not stays:
        os.rmdir(folder.path)
    return stays


def _listed(folder: Path) -> frozenset[str]:
    """What the trainer says it wrote there; a model brings files of any name along."""
    files = (read_json(folder / MANIFEST) or {}).get("files")
    return frozenset(files) if isinstance(files, dict) else frozenset()


def _entries(folder: str | Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as found:
        return list(found)


# --- folders that lie in each other


class RunFolders:
    """Absolute folders of runs, to check whether another folder would lie in one or around one.

    Compared as a disk does that ignores case, so that a sweep means the same on every machine.
    """

    def __init__(self, folders: Iterable[str]) -> None:
        self._known = {folded(folder): folder for folder in folders}
        self._above = {up: f for key, f in self._known.items() for up in _above(key)}

    def clash(self, folder: str) -> str | None:
        """What is wrong with a folder beside these and beside what lies on the disk; else None."""
        key, path = folded(folder), Path(folder)
        same = self._known.get(key, folder)
        if same != folder:
            return f"{folder} and {same} differ only in case: on many disks they are one folder"
        if inside := self.outer_clash(folder):
            return inside
        if within := self._above.get(key) or _run_within(path):
            return f"{folder} has {within} in it, the folder of another run"
        return None

    def outer_clash(self, folder: str) -> str | None:
        """What is wrong with a folder that lies in another run's, under any name; else None."""
        known = (self._known[up] for up in _above(folded(folder)) if up in self._known)
        around = next(known, None) or _run_around(Path(folder))
        return f"{folder} lies in {around}, the folder of another run" if around else None


def _run_around(folder: Path) -> Path | None:
    return next((above for above in folder.parents if (above / CONFIG_FILE).exists()), None)


def _run_within(folder: Path) -> Path | None:
    """The folder of a run at most two levels below, as far as `{sweep}/{run}` reaches."""
    patterns = (f"*/{CONFIG_FILE}", f"*/*/{CONFIG_FILE}")
    return next((found.parent for p in patterns for found in sorted(folder.glob(p))), None)


def _above(path: str) -> Iterator[str]:
    while (parent := os.path.dirname(path)) != path:
        yield parent
        path = parent
