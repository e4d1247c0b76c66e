"""checkpoint-N/: everything that a run needs to go on as if it had never stopped.

Weights in the form that mlx_lm loads, masters and moments, counters and figures, rollouts that are
not used up. Whole or not there: a manifest holds size and SHA-256 of every file, and a folder that
does not match it is passed over. What state belongs in it is decided in `training_loop.py`.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import mlx.core as mx

from grpo_core.errors import ModelError
from grpo_core.run.atomic import (
    SET_ASIDE,
    must_be_regular,
    new_folder,
    read_whole_json,
    remove,
    write_json,
)
from grpo_core.run.protocol import MANIFEST, TRAINER_STATE, checkpoint_name, checkpoints

ARRAYS = "optimizer.safetensors"
ROLLOUTS = "rollouts.json"


@dataclass(slots=True)
class RunState:
    """Where a run stands after `update` updates, but for its arrays."""

    update: int = 0
    batch_step: int = 0
    optimizer_steps: int = 0
    evaluated: list[str] = field(default_factory=list)
    """Splits whose evaluation at this very update is done and logged."""
    best: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    """The newest value of each reproducible figure in the log."""
    tokens: int = 0
    skipped_updates: int = 0
    bad_in_a_row: int = 0
    silent_in_a_row: int = 0
    moved_updates: int = 0
    """Updates that changed the weights."""
    unrewarded_updates: int = 0
    """Updates in which every reward of every completion was missing."""
    wall_s: float = 0.0
    peak_bytes: int = 0
    flat_in_a_row: dict[str, int] = field(default_factory=dict)
    """How many groups in a row taught nothing, of the rows where the last one did not."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What the run chose by itself, such as the micro-batch size."""
    fingerprint: str = ""
    """SHA-256 of the data's rows."""
    versions: dict[str, str] = field(default_factory=dict)
    threads: int = 0
    """That multiply matrices; 0 where the run does not choose them."""


def nothing_learnt(state: RunState) -> str:
    """Why the weights are what they were before the run, in words for its end; "" if they moved."""
    if state.moved_updates or not state.update:
        return ""
    if state.unrewarded_updates == state.update:
        return (
            f"nothing was learnt: in all {state.update} updates every reward of every completion "
            "was missing (None)"
        )
    return (
        f"nothing was learnt: in none of {state.update} updates was there a signal, within each "
        "group all rewards were equal; try rewards that distinguish answers, a higher temperature "
        "or more num_generations"
    )


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A whole checkpoint, read back."""

    path: Path
    state: RunState
    arrays: dict[str, mx.array]
    rollouts: dict[str, Any] | None


def save(
    output_dir: Path,
    state: RunState,
    arrays: dict[str, mx.array],
    rollouts: dict[str, Any] | None,
    write_weights: Callable[[Path], None],
) -> Path:
    """Write checkpoint-N, N being `state.update`; OSError or RuntimeError on a full disk."""
    target = output_dir / checkpoint_name(state.update)
    with new_folder(target) as folder:
        write_weights(folder)
        # Through Python's file: MLX's own writer takes a full disk for success.
        with open(folder / ARRAYS, "wb") as file:
            mx.save_safetensors(file, arrays)
        write_json(folder / TRAINER_STATE, asdict(state))
        if rollouts is not None:
            write_json(folder / ROLLOUTS, rollouts)
        write_manifest(folder)
    return target


def write_manifest(folder: Path) -> None:
    """List what lies in a folder of weights; written last."""
    write_json(folder / MANIFEST, {"files": _manifest(folder)})


def _manifest(folder: Path) -> dict[str, Any]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _fingerprint(path) for path in found}


def _fingerprint(path: Path) -> dict[str, Any]:
    must_be_regular(path)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def damage(folder: Path) -> str:
    """What is torn in a checkpoint, as a message; empty for a whole one.

    OSError where that cannot be known, as a file is there and cannot be read.
    """
    manifest = read_whole_json(folder / MANIFEST)
    if manifest is None or not isinstance(manifest.get("files"), dict):
        return f"{MANIFEST} is missing or torn"
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.exists():
            return f"{name} is missing"
        if _fingerprint(path) != wanted:
            return f"{name} is not what was written"
    return ""


def newest(output_dir: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The newest whole checkpoint. Newer ones that are torn are set aside; `say` reports why.

    ModelError where one cannot be read: it may well be whole.
    """
    try:
        found = checkpoints(output_dir)
    except OSError as e:
        raise ModelError(
            f"{e.filename or output_dir}: cannot be listed: {e.strerror}; nothing was changed: "
            "make it readable and start again"
        ) from None
    for _, path in found:
        try:
            wrong = damage(path)
            if not wrong:
                return _read(path)
        except OSError as e:
            raise ModelError(
                f"{e.filename or path}: cannot be read: {e.strerror}; nothing was changed: make "
                "it readable and start again, or move the checkpoint away to go on without it"
            ) from None
        aside = path.with_name(SET_ASIDE + path.name)
        say(f"[resume] passing over {path}: {wrong}; it is kept as {aside.name}")
        remove(aside)
        os.rename(path, aside)
    return None


def _read(path: Path) -> Checkpoint:
    known = read_whole_json(path / TRAINER_STATE) or {}
    names = {f.name for f in fields(RunState)}
    state = RunState(**{name: value for name, value in known.items() if name in names})
    arrays = mx.load(str(path / ARRAYS))
    assert isinstance(arrays, dict)
    mx.eval(arrays)
    return Checkpoint(path, state, arrays, read_whole_json(path / ROLLOUTS))


def rotate(output_dir: Path, limit: int, keep: int | None) -> list[str]:
    """Remove all but the newest `limit` checkpoints (0: all stay) and number `keep`.

    What cannot be removed stays, and the run goes on: a message about each.
    """
    stays = []
    for update, path in checkpoints(output_dir)[limit:] if limit else ():
        try:
            if update != keep:
                remove(path)
        except OSError as e:
            stays.append(f"[save] {path}: an old checkpoint that cannot be removed: {e.strerror}")
    return stays
