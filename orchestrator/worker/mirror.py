"""The files of an attempt on a node, copied into the run's own folder and log on this machine.

What reads a run finds there what it always finds. A log is continued where it ends here, once its
end here is what the node has there; a file or folder that is whole comes beside its place, is
compared by its sums, and renamed. What was copied in part goes on where it ended. `result.json`
comes last, after everything else.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath

from grpo_core.run import protocol
from grpo_core.run.atomic import TEMPORARY, remove, replace_folder, sync, sync_folder
from orchestrator.worker.attempt_log import HEADER
from orchestrator.worker.nodes import (
    ATTEMPT_LOG,
    PIECE_BYTES,
    AttemptReport,
    FileState,
    NodeRefused,
)

# So much of what is here is compared with the node's before more is put behind it.
_OVERLAP_BYTES = 4096

_LOGS = frozenset({protocol.LOG_FILE, protocol.SAMPLES_FILE, ATTEMPT_LOG})

Read = Callable[[str, int, int], bytes]
"""A piece of a file of the attempt: its path, offset and size."""


class Mirror:
    """Copies one attempt; what it knows is only to save work."""

    def __init__(self, folder: Path, log: Path, sent: Collection[str] = ()) -> None:
        """`sent` are the files of the output folder that the node was given."""
        self._folder = folder
        self._log = log
        self._same: dict[str, str] = {}
        self._versions: dict[str, int] = {}
        self._weights = {_top(path) for path in sent if "/" in path}

    def copy(self, report: AttemptReport, read: Read) -> Iterator[None]:
        """Bring here what is new; each step reads once. OSError, NodeRefused."""
        states = {state.path: state for state in report.files}
        for path in states:
            _check(path)
        self._folder.mkdir(parents=True, exist_ok=True)
        result = states.pop(protocol.RESULT_FILE, None)
        single = [state for state in states.values() if "/" not in state.path]
        for state in sorted(single, key=lambda state: state.whole):
            yield from self._whole(state, read) if state.whole else self._grow(state, read)
        folders: dict[str, list[FileState]] = {}
        for state in states.values():
            if "/" in state.path:
                folders.setdefault(_top(state.path), []).append(state)
        for name in sorted(folders, key=self._rank, reverse=True):
            yield from self._take_folder(name, folders[name], read)
        self._drop_old(folders)
        if result is None:
            (self._folder / protocol.RESULT_FILE).unlink(missing_ok=True)
        elif not report.running:
            yield from self._whole(result, read)

    # --- what grows

    def _grow(self, state: FileState, read: Read) -> Iterator[None]:
        path, base = self._place(state.path), self._base(state.path)
        here = (_size(path) or base) - base
        known = self._versions.get(state.path)
        if here > state.size or known not in (None, state.version):
            yield from self._again(state, read)
            return
        if known is not None and here == state.size:
            return
        overlap = min(here, _OVERLAP_BYTES)
        at = here - overlap
        while at < state.size:
            data = read(state.path, at, min(PIECE_BYTES, state.size - at))
            if overlap and data[:overlap] != _piece(path, base + at, overlap):
                yield from self._again(state, read)
                return
            with open(path, "ab") as file:
                file.write(data[overlap:])
            at, overlap = at + len(data), 0
            yield
            if not data:
                break
        self._versions[state.path] = state.version

    def _again(self, state: FileState, read: Read) -> Iterator[None]:
        """Take a file that grows anew: it was replaced, or is another one."""
        path, base = self._place(state.path), self._base(state.path)
        beside = path.with_name(TEMPORARY + path.name)
        with open(beside, "wb") as file:
            file.write(_piece(path, 0, base))
            at = 0
            while at < state.size and (data := read(state.path, at, PIECE_BYTES)):
                file.write(data)
                at += len(data)
                yield
        os.replace(beside, path)
        self._versions[state.path] = state.version

    # --- what is whole

    def _whole(self, state: FileState, read: Read) -> Iterator[None]:
        if self._is_here(state):
            return
        path = self._place(state.path)
        if state.path in _LOGS:
            # It has ended, and most of it is here.
            yield from self._grow(state, read)
            if self._is_here(state):
                return
        if state.path == ATTEMPT_LOG:
            yield from self._again(state, read)
            self._must_be(state, path, self._base(state.path))
        else:
            beside = path.with_name(TEMPORARY + path.name)
            yield from self._fetch(state, beside, read)
            os.replace(beside, path)
            sync_folder(path.parent)
        self._same[state.path] = _sum_of(state)

    def _is_here(self, state: FileState) -> bool:
        """Whether the file here is the node's."""
        if self._same.get(state.path) == _sum_of(state):
            return True
        path, base = self._place(state.path), self._base(state.path)
        if _size(path) != base + state.size or _digest(path, base) != _sum_of(state):
            return False
        self._same[state.path] = _sum_of(state)
        return True

    def _fetch(self, state: FileState, beside: Path, read: Read) -> Iterator[None]:
        """Copy a file to where it waits to be renamed, and compare it."""
        at = _size(beside) or 0
        if at > state.size:
            beside.unlink()
            at = 0
        with open(beside, "ab") as file:
            while at < state.size:
                data = read(state.path, at, min(PIECE_BYTES, state.size - at))
                if not data:
                    break
                file.write(data)
                file.flush()
                at += len(data)
                yield
            sync(file.fileno())
        self._must_be(state, beside, 0)

    @staticmethod
    def _must_be(state: FileState, path: Path, base: int) -> None:
        if _digest(path, base) != _sum_of(state):
            if base == 0:
                path.unlink()
            raise NodeRefused(f"{state.path}: did not come whole; it is copied again")

    # --- folders

    def _take_folder(self, name: str, states: list[FileState], read: Read) -> Iterator[None]:
        if protocol.is_weights_folder(name):
            self._weights.add(name)
        if all(map(self._is_here, states)):
            return
        target = self._folder / name
        beside = target.with_name(TEMPORARY + name)
        wanted = {beside / _below(state.path): state for state in states}
        for path in sorted(beside.rglob("*")):
            if path.is_file() and path not in wanted:
                path.unlink()
        for path, state in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if _size(path) != state.size or _digest(path, 0) != _sum_of(state):
                yield from self._fetch(state, path, read)
        replace_folder(beside, target)
        self._same.update({state.path: _sum_of(state) for state in states})

    def _rank(self, name: str) -> tuple[bool, int]:
        """What is here in part comes first, or over a slow line none would ever be whole."""
        return (self._folder / (TEMPORARY + name)).exists(), _number(name)

    def _drop_old(self, there: Collection[str]) -> None:
        """Delete the checkpoints that the trainer has deleted, where it has made a newer one.

        Those that came in part in any case.
        """
        for part in self._folder.glob(f"{TEMPORARY}*"):
            name = part.name.removeprefix(TEMPORARY)
            if protocol.is_weights_folder(name) and name not in there:
                remove(part)
        newest = max(map(_number, there), default=-1)
        for update, path in protocol.checkpoints(self._folder):
            if path.name in self._weights and path.name not in there and update < newest:
                remove(path)

    # --- places

    def _place(self, path: str) -> Path:
        return self._log if path == ATTEMPT_LOG else self._folder.joinpath(*path.split("/"))

    def _base(self, path: str) -> int:
        """How much of the file here is ours: of the attempt's log all before the trainer's part."""
        if path != ATTEMPT_LOG or _size(self._log) is None:
            return 0
        base = 0
        with open(self._log, "rb") as file:
            for line in file:
                if line.startswith(HEADER.encode()):
                    break
                base += len(line)
        return base


def _check(path: str) -> None:
    """NodeRefused for what is no name in an output folder."""
    parts = PurePosixPath(path).parts
    plain = path and "/".join(parts) == path and not {".", "..", "/"} & {*parts}
    hidden = any(protocol.is_temporary(part) for part in parts) or path == protocol.LOCK_FILE
    if not plain or hidden or "\0" in path or "\\" in path:
        raise NodeRefused(f"{path!r}: no file of an output folder")


def _top(path: str) -> str:
    return path.partition("/")[0]


def _below(path: str) -> str:
    return path.partition("/")[2]


def _number(name: str) -> int:
    """The update of a checkpoint's folder; -1 of another one."""
    is_checkpoint = protocol.is_weights_folder(name) and name != protocol.FINAL_FOLDER
    return int(name.rpartition("-")[2]) if is_checkpoint else -1


def _sum_of(state: FileState) -> str:
    if state.sha256 is None:
        raise NodeRefused(f"{state.path}: whole, and its sum is not told")
    return state.sha256


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _piece(path: Path, at: int, size: int) -> bytes:
    if not size:
        return b""
    with open(path, "rb") as file:
        file.seek(at)
        return file.read(size)


def _digest(path: Path, base: int) -> str:
    found = hashlib.sha256()
    with open(path, "rb") as file:
        file.seek(base)
        while data := file.read(2**20):
            found.update(data)
    return found.hexdigest()
