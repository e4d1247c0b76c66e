"""A virtual environment for the peer, made once and kept in the user's cache folder."""

import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import platformdirs

from benchmarks._trainer.child import Child
from benchmarks._trainer.work import Setting

PEERS = ("mlx-lm-lora",)
DRIVER = Path(__file__).with_name("peer.py")


def python_of(requirement: str, given: Path | None) -> Path:
    """The interpreter of a virtual environment that has `requirement`, such as NAME==VERSION.

    `given` is an environment that is there; else pip fetches the package from wherever it is
    configured to.
    """
    if requirement.partition("==")[0] not in PEERS:
        raise SystemExit(f"--peer {requirement}: only {', '.join(PEERS)} can be run beside ours")
    if given is not None:
        return given / "bin" / "python"
    folder = Path(platformdirs.user_cache_dir("grpo-sweep")) / "peers" / requirement
    python = folder / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    # Quick where all is there already.
    wanted = [requirement, *_same_mlx()]
    if subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted]).returncode:
        raise SystemExit(f"--peer {requirement}: pip could not install it; see above")
    return python


def _same_mlx() -> list[str]:
    """MLX and mlx-lm as ours runs on, so that only the trainers differ."""
    return [f"mlx{_extra()}=={version('mlx')}", f"mlx-lm=={version('mlx-lm')}"]


def _extra() -> str:
    """The backend that ours has; on Linux mlx alone has none."""
    if sys.platform != "linux":
        return ""
    there = {found.metadata["Name"].lower() for found in distributions()}
    cuda = (extra for extra in ("cuda13", "cuda12") if f"mlx-cuda-{extra[-2:]}" in there)
    return f"[{next(cuda, 'cpu')}]"


def version_of(python: Path, requirement: str) -> str:
    """The version that is installed, after the name."""
    name = requirement.partition("==")[0]
    code = f"from importlib.metadata import version; print(version({name!r}))"
    told = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True)
    return f"{name} {told.stdout.strip()}"


def train(
    python: Path, env: Mapping[str, str], folder: Path, setting: Setting, steps: int
) -> dict[str, Any]:
    """The peer's steps, and its resident memory."""
    numbers = (setting.group, setting.tokens, setting.prompts, steps, setting.adapter_rank)
    outside = {name: value for name, value in env.items() if name != "PYTHONPATH"}
    ended = Child([python, DRIVER, folder, *map(str, numbers)], outside).end()
    return {"steps": list(ended.lines()), "rss_bytes": ended.rss_bytes}
