"""Processes that are measured: one at a time, each with the most memory that it ever had."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grpo_core.errors import Interrupted

ROOT = Path(__file__).resolve().parents[2]

# ru_maxrss is in kB, but on macOS in bytes.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024


class ChildFailed(Exception):
    """A measured process that did not end well; the message has the end of what it said."""


@dataclass(frozen=True)
class Ended:
    """How a process ended: its output, and its peak of resident memory in bytes."""

    out: str
    rss_bytes: int

    def lines(self) -> Iterator[dict[str, Any]]:
        """Its output as JSON objects, one a line; other lines are left out."""
        for line in self.out.splitlines():
            if line.startswith("{"):
                yield json.loads(line)


def environment(folder: Path) -> dict[str, str]:
    """Ours first in the path, caches and the GPU lock in the benchmark's own folder."""
    return {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "GRPO_GPU_LOCK": str(folder / "gpu.lock"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }


class Child:
    """A running process; its output goes to files, so that it never waits for a reader."""

    def __init__(self, argv: Sequence[str | Path], env: Mapping[str, str]) -> None:
        self.argv = [str(word) for word in argv]
        # Closed when they have been read, at the end.
        self._out, self._err = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(self.argv, stdout=self._out, stderr=self._err, env=env)

    def end(self, may_stop: bool = False) -> Ended:
        """Wait for it; ChildFailed where its exit code is not 0 (or 75, where it may stop)."""
        # Not `wait`, as only wait4 tells the memory of this one process.
        _, status, used = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        out, err = _text(self._out), _text(self._err)
        if self.process.returncode not in ((0, Interrupted.exit_code) if may_stop else (0,)):
            raise ChildFailed(
                f"{' '.join(self.argv)}: exit {self.process.returncode}\n{err[-2000:]}"
            )
        return Ended(out, used.ru_maxrss * RSS_UNIT)


def _text(file: Any) -> str:
    file.seek(0)
    text: str = file.read().decode(errors="replace")
    file.close()
    return text


def module(name: str, folder: Path, *args: str | Path) -> Ended:
    """Run a module of this package to its end."""
    argv = [sys.executable, "-m", f"benchmarks._trainer.{name}", *args]
    return Child(argv, environment(folder)).end()
