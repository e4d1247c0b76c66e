"""Peers in virtual environments of their own, made once and kept in the user's cache folder."""

import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks._trainer.child import ROOT, Child
from benchmarks._trainer.work import Setting

PEERS = ("mlx-lm-lora", "trl")
# TRL's GRPO on a CPU is fastest with one thread or two, by the size of the model.
TORCH_THREADS = (1, 2)
BLAS_PACKAGE = "scipy-openblas32"


@dataclass(frozen=True)
class Peer:
    """A trainer that is run beside ours; `label` is what the tables call it."""

    name: str
    python: Path
    our_blas: bool = False  # MLX's products led to the library that ours uses

    @property
    def label(self) -> str:
        """The name, and whose BLAS it has."""
        return f"{self.name}, our BLAS" if self.our_blas else self.name

    @property
    def driver(self) -> Path:
        """The script that runs it."""
        return Path(__file__).with_name(f"peer_{self.name.replace('-', '_')}.py")

    def version(self) -> str:
        """The version that is installed, after the name."""
        code = f"from importlib.metadata import version; print(version({self.name!r}))"
        told = subprocess.run([self.python, "-c", code], check=True, capture_output=True, text=True)
        return f"{self.name} {told.stdout.strip()}"

    def train(
        self, env: Mapping[str, str], folder: Path, setting: Setting, steps: int, threads: int
    ) -> dict[str, Any]:
        """The peer's steps, its resident memory and the threads that it had."""
        numbers = [setting.group, setting.tokens, setting.prompts, steps, setting.adapter_rank]
        numbers += [threads] if self.name == "trl" else []
        outside = {name: value for name, value in env.items() if name != "PYTHONPATH"}
        ended = Child(self.argv(self.driver, [folder, *numbers]), outside).end()
        return {"steps": list(ended.lines()), "rss_bytes": ended.rss_bytes, "threads": threads}

    def argv(self, driver: Path, words: Sequence[Any]) -> list[str | Path]:
        """How a script is run by its Python."""
        script = ["-c", _WITH_OUR_BLAS, ROOT, driver] if self.our_blas else [driver]
        return [self.python, *script, *map(str, words)]

    def threads(self) -> tuple[int, ...]:
        """What is tried; the better counts."""
        return TORCH_THREADS if self.name == "trl" else (1,)


def better(found: list[dict[str, Any]], warm: int) -> dict[str, Any]:
    """The one whose steps take less time, the first ones left out."""
    return min(found, key=lambda one: statistics.median(s["total_s"] for s in one["steps"][warm:]))


def medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds of a step, by the wall's clock and the processor's."""
    return {name: statistics.median(step[name] for step in steps) for name in ("total_s", "cpu_s")}


# The peer's own script, behind the few lines with which our trainer begins as well.
_WITH_OUR_BLAS = """
import runpy, sys
root, driver = sys.argv[1:3]
sys.path.insert(0, root)
from grpo_core.blas import library, session
blas = session.install(library.find())
assert blas.library is not None, blas.why_own
if blas.library.set_threads is not None:
    blas.library.set_threads(1)
sys.path.remove(root)
sys.argv = sys.argv[2:]
runpy.run_path(driver, run_name="__main__")
"""


def peers_of(requirements: list[str], venvs: list[Path], our_blas: bool) -> list[Peer]:
    """The peers that are asked for, each in an environment that has it.

    `requirements` are such as NAME or NAME==VERSION; `venvs` are environments that are there, in
    the same order. For the others pip fetches the package from wherever it is configured to.
    """
    found = []
    for number, requirement in enumerate(requirements):
        name = requirement.partition("==")[0]
        if name not in PEERS:
            raise SystemExit(f"--peer {requirement}: only {' and '.join(PEERS)} can be run here")
        given = venvs[number] if number < len(venvs) else None
        python = given / "bin" / "python" if given else _installed(name, requirement)
        found.append(Peer(name, python))
        if our_blas and name == "mlx-lm-lora":
            found.append(Peer(name, python, our_blas=True))
    return found


def _installed(name: str, requirement: str) -> Path:
    folder = Path(platformdirs.user_cache_dir("grpo-sweep")) / "peers" / requirement
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    # Quick where all is there already. torch comes first: what trl would choose is a build for
    # CUDA of several GB.
    for wanted in (_beside(name), [requirement]):
        if subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted]).returncode:
            raise SystemExit(f"--peer {requirement}: pip could not install it; see above")
    return python


def _beside(name: str) -> list[str]:
    """What the peer needs; MLX and mlx-lm as ours runs on, so that only the trainers differ."""
    if name == "trl":
        return ["torch==2.13.0", "datasets", "peft"]
    same = [f"mlx{_extra()}=={version('mlx')}", f"mlx-lm=={version('mlx-lm')}"]
    return [*same, BLAS_PACKAGE] if sys.platform == "linux" else same


def _extra() -> str:
    """The backend that ours has; on Linux mlx alone has none."""
    if sys.platform != "linux":
        return ""
    there = {found.metadata["Name"].lower() for found in distributions()}
    cuda = (extra for extra in ("cuda13", "cuda12") if f"mlx-cuda-{extra[-2:]}" in there)
    return f"[{next(cuda, 'cpu')}]"
