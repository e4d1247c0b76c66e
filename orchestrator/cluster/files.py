"""The files of an attempt as its node tells them to the head: what grows, and what is whole.

A log only grows; what is renamed into place is whole at once. A folder of weights counts when its
manifest and all that it lists are there as they were written. A trainer removes old checkpoints, so
the newest is kept by a second name of its files, for a head that takes long to read it.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from grpo_core.run import protocol
from grpo_core.run.atomic import TEMPORARY, remove
from orchestrator.system.sums import Stamp, digest, stamp, whole_weights
from orchestrator.worker.nodes import ATTEMPT_LOG, FileState, NodeRefused

# Written beside and renamed into place; everything else at the top only grows.
_RENAMED = frozenset({protocol.CONFIG_FILE, protocol.RESULT_FILE})
# A checkpoint that was read so lately is not let go for a newer one.
_READS_S = 30.0


@dataclass(frozen=True)
class AttemptFiles:
    """Where the files of an attempt lie: `kept` is for the second names of a checkpoint."""

    log: Path
    output: Path
    kept: Path


class FileLister:
    """What the files of an attempt are at each look; sums are computed once."""

    def __init__(self, files: AttemptFiles, clock: Callable[[], float] = time.monotonic) -> None:
        self._files = files
        self._clock = clock
        self._weights: dict[Path, tuple[Stamp, list[FileState]]] = {}
        self._read_at = float("-inf")
        self._signs: list[Stamp | None] = []
        self._spoke = clock()

    @property
    def quiet_s(self) -> float:
        """How long neither log has changed, as far as was looked."""
        return self._clock() - self._spoke

    def look(self, *, ended: bool) -> tuple[FileState, ...]:
        """Every file that the head may read; after the end all are whole."""
        self._listen()
        self._keep_newest()
        return tuple(self._all(ended))

    def read(self, path: str, offset: int, size: int) -> bytes:
        """A piece of a file, by the path that `look` says; NodeRefused."""
        try:
            with open(self._place(path), "rb") as file:
                file.seek(offset)
                return file.read(size)
        except OSError as e:
            raise NodeRefused(f"{path}: cannot be read: {e.strerror}") from None

    def _place(self, path: str) -> Path:
        if path == ATTEMPT_LOG:
            return self._files.log
        parts = path.split("/")
        if path.startswith("/") or not set(parts).isdisjoint({"", ".", ".."}):
            raise NodeRefused(f"{path!r}: no file of an attempt")
        kept = self._files.kept.joinpath(*parts)
        if kept.exists():
            self._read_at = self._clock()
            return kept
        return self._files.output.joinpath(*parts)

    def _listen(self) -> None:
        paths = (self._files.log, self._files.output / protocol.LOG_FILE)
        signs = [stamp(path) if path.exists() else None for path in paths]
        if signs != self._signs:
            self._signs, self._spoke = signs, self._clock()

    # --- the checkpoint that is kept for the head

    def _keep_newest(self) -> None:
        kept = {name for _, name in self._checkpoints(self._files.kept)}
        newest = max(self._checkpoints(self._files.output), default=None)
        if newest is None or newest[1] in kept:
            return
        if kept and self._clock() - self._read_at < _READS_S:
            return
        for name in kept:
            remove(self._files.kept / name)
        self._link(self._files.output / newest[1], self._files.kept / newest[1])

    def _checkpoints(self, folder: Path) -> Iterator[tuple[int, str]]:
        for update, path in protocol.checkpoints(folder):
            if self._states_of_weights(path):
                yield update, path.name

    def _link(self, source: Path, target: Path) -> None:
        """Second names for the files of a folder, whole or not there."""
        beside = target.with_name(TEMPORARY + target.name)
        try:
            remove(beside)
            for path in source.rglob("*"):
                if path.is_file():
                    other = beside / path.relative_to(source)
                    other.parent.mkdir(parents=True, exist_ok=True)
                    os.link(path, other)
            os.rename(beside, target)
        except OSError:
            # Removed meanwhile, or no such names on this disk: then the head reads what is there.
            remove(beside)

    # --- the list

    def _all(self, ended: bool) -> Iterator[FileState]:
        if self._files.log.exists():
            yield self._state(self._files.log, ATTEMPT_LOG, whole=ended)
        for path in sorted(self._listed(self._files.output)):
            if path.is_dir():
                yield from self._folder(path, ended)
            elif path.is_file():
                yield from self._file(path, path.name, ended or path.name in _RENAMED)
        for path in sorted(self._listed(self._files.kept)):
            if not (self._files.output / path.name).exists():
                yield from self._states_of_weights(path)

    def _listed(self, folder: Path) -> Iterator[Path]:
        if folder.is_dir():
            for path in folder.iterdir():
                temporary = protocol.is_temporary(path.name) or path.name == protocol.LOCK_FILE
                if not temporary and not path.is_symlink():
                    yield path

    def _folder(self, path: Path, ended: bool) -> Iterator[FileState]:
        if protocol.is_weights_folder(path.name):
            yield from self._states_of_weights(path)
        elif ended:
            for file in sorted(path.rglob("*")):
                if file.is_file() and not file.is_symlink():
                    name = file.relative_to(self._files.output).as_posix()
                    yield from self._file(file, name, whole=True)

    def _file(self, path: Path, name: str, whole: bool) -> Iterator[FileState]:
        try:
            yield self._state(path, name, whole=whole)
        except FileNotFoundError:
            return

    def _state(self, path: Path, name: str, *, whole: bool) -> FileState:
        number, size, _ = stamp(path)
        return FileState(name, size, number, whole, digest(path) if whole else None)

    def _states_of_weights(self, folder: Path) -> list[FileState]:
        """The files of a folder of weights; none where it is not whole (any more)."""
        try:
            seen = stamp(folder)
            known = self._weights.get(folder)
            if known is None or known[0] != seen:
                found = [
                    FileState(
                        path=f"{folder.name}/{file.name}",
                        size=file.size,
                        version=stamp(folder / file.name)[0],
                        whole=True,
                        sha256=file.sha256,
                    )
                    for file in whole_weights(folder)
                ]
                known = self._weights[folder] = (seen, found)
        except OSError:
            return []
        return known[1]
