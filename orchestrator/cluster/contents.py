"""A node's store of files by their content: they come in pieces, and count once their sum is right.

What several runs read is kept once. A run's tree holds a second name of it where it only reads, and
a copy where it writes; what no tree holds any more makes room when there is too much of it.
"""

import errno
import hashlib
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from grpo_core.run.atomic import sync
from orchestrator.worker.attempt_log import PASSING
from orchestrator.worker.nodes import Input, NodeRefused

_SUM = re.compile(r"[0-9a-f]{64}")
_PART = ".part"
_NO_LINK = frozenset({errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES})
# As much of what no run needs just now is kept for the next ones.
KEEP_BYTES = 20 * 2**30


class Contents:
    """Files by their SHA-256, in a folder of their own."""

    def __init__(self, folder: Path, keep_bytes: int = KEEP_BYTES) -> None:
        self._folder = folder
        self._keep_bytes = keep_bytes
        self._lock = threading.RLock()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def lacks(self, files: Sequence[Input]) -> list[Input]:
        """Those of the files that are not there whole, each content once."""
        by_content = {file.sha256: file for file in files}
        return [file for file in by_content.values() if not self._path(file).exists()]

    def put(self, file: Input, offset: int, data: bytes) -> None:
        """Take a piece; the last one is checked by the sum of all. See `Node.put`."""
        if not 0 <= offset <= offset + len(data) <= file.size:
            raise NodeRefused(f"{file.path}: a piece from {offset} of {len(data)} bytes, of {file}")
        with self._lock:
            whole, part = self._path(file), self._part(file)
            if whole.exists():
                return
            try:
                if self._append(part, offset, data, file) == file.size:
                    self._check(part, whole, file)
            except OSError as e:
                part.unlink(missing_ok=True)
                self.trim(0 if e.errno in PASSING else None)
                raise NodeRefused(f"{file.path}: cannot be kept: {e.strerror}") from None

    def lay(self, file: Input, target: Path, *, written: bool) -> None:
        """Make a file of this content at `target`; one that is `written` to is a copy. OSError.

        FileNotFoundError where it is not there whole.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            source = self._path(file)
            # When it was used last: the oldest make room first.
            os.utime(source)
            if not written:
                try:
                    os.link(source, target)
                    return
                except FileExistsError:
                    # One file by two names that are one, such as `a` and `./a`.
                    if not os.path.samefile(source, target):
                        raise
                    return
                except OSError as e:
                    if e.errno not in _NO_LINK:
                        raise
            shutil.copyfile(source, target)

    def drop(self, files: Iterable[Input]) -> None:
        """Forget contents that no other run will ask for."""
        with self._lock:
            for file in files:
                self._path(file).unlink(missing_ok=True)

    def trim(self, keep_bytes: int | None = None) -> None:
        """Remove what no tree holds, the longest unused first, until few enough bytes are left."""
        most = self._keep_bytes if keep_bytes is None else keep_bytes
        with self._lock:
            unused = sorted(self._unused(), key=lambda found: found[0], reverse=True)
            for _, size, path in unused:
                most -= size
                if most < 0:
                    path.unlink(missing_ok=True)

    def _unused(self) -> Iterator[tuple[int, int, Path]]:
        for path in self._folder.iterdir():
            stat = path.stat()
            if stat.st_nlink == 1:
                yield stat.st_mtime_ns, stat.st_size, path

    def _append(self, part: Path, offset: int, data: bytes, file: Input) -> int:
        """The size of the part with this piece; what it has already is not written again."""
        fd = os.open(part, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(fd, "wb") as out:
            size = os.fstat(fd).st_size
            if offset > size:
                raise NodeRefused(f"{file.path}: a piece from {offset}, but {size} bytes are here")
            if offset + len(data) <= size < file.size:
                return size
            out.seek(offset)
            out.write(data)
            out.flush()
            size = max(size, offset + len(data))
            if size == file.size:
                sync(fd)
            return size

    def _check(self, part: Path, whole: Path, file: Input) -> None:
        if (found := _sum(part)) != file.sha256:
            part.unlink()
            raise NodeRefused(
                f"{file.path}: its sum is {found[:8]}, not {file.sha256[:8]}; it must be sent again"
            )
        # A name more than a tree holds: nobody writes to it.
        part.chmod(0o400)
        os.replace(part, whole)

    def _path(self, file: Input) -> Path:
        if not _SUM.fullmatch(file.sha256):
            raise NodeRefused(f"{file.path}: {file.sha256!r} is no SHA-256")
        return self._folder / file.sha256

    def _part(self, file: Input) -> Path:
        return self._path(file).with_suffix(_PART)


def _sum(path: Path) -> str:
    """As it is on the disk now, whatever was known of it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
