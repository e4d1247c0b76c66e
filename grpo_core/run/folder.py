"""Which folder a run writes to: its own, one that it goes on in, or the next free one.

A folder belongs to the configuration whose hash its config.resolved.json holds; a folder of
another one is only read. One trainer at a time: an flock on `.lock` in the folder.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial
from pathlib import Path
from platform import platform
from typing import Any

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    config_hash,
    home_path,
    named_path,
    resolved_dict,
)
from grpo_core.errors import ConfigError, Interrupted
from grpo_core.run.atomic import put_back, read_json, read_whole_json, write_json
from grpo_core.run.locks import Lock, acquire
from grpo_core.run.logs import JsonLines
from grpo_core.run.protocol import (
    COMPLETED,
    CONFIG_FILE,
    FINAL_FOLDER,
    LOCK_FILE,
    LOG_FILE,
    RESULT_FILE,
    SAMPLES_FILE,
    checkpoints,
    learnt_nothing,
    package_versions,
)
from grpo_core.run.surroundings import folder_fault
from grpo_core.terminal import tell


class Standing(Enum):
    """What a folder is to a configuration."""

    FREE = auto()
    OURS = auto()
    DONE = auto()
    OTHERS = auto()


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder of this run; `lock` is None where it is finished and nothing is to be done."""

    path: Path
    cfg: MLXGRPOConfig
    """The configuration with `output_dir` as it became."""
    lock: Lock | None
    result: dict[str, Any]
    """result.json of a finished run, else empty."""

    @property
    def in_place(self) -> bool:
        """Whether the folder at `path` is still the one that was claimed."""
        return self.lock is None or self.lock.in_place

    def must_be_in_place(self, *files: JsonLines) -> None:
        """Interrupted where the folder, or an open file in it, was moved, deleted or replaced.

        Whatever is written from then on would lie in two places, or nowhere.
        """
        gone = [] if self.in_place else [self.path]
        gone += [file.path for file in files if not file.in_place]
        if gone:
            raise Interrupted(
                f"{gone[0]}: moved or deleted while the run wrote to it; put it back to go on from "
                "the newest checkpoint there: the same command begins anew where there is none"
            )


def standing_of(path: Path, wanted_hash: str) -> Standing:
    """What `path` is to the configuration with that hash; reads only.

    ConfigError where that cannot be known: it may well be ours, and completed.
    """
    try:
        return _standing(path, wanted_hash)
    except OSError as e:
        raise ConfigError(
            f"output_dir = {str(path)!r}: {e.filename or path}: cannot be read: {e.strerror}; "
            "nothing was changed: make it readable, or choose another folder"
        ) from None


def _standing(path: Path, wanted_hash: str) -> Standing:
    if not (path / CONFIG_FILE).exists():
        return Standing.OTHERS if _has_traces(path) else Standing.FREE
    config = read_whole_json(path / CONFIG_FILE)
    if config is None or config.get("hash") != wanted_hash:
        return Standing.FREE if config and learnt_nothing(path) else Standing.OTHERS
    result = read_whole_json(path / RESULT_FILE) or {}
    return Standing.DONE if result.get("status") == COMPLETED else Standing.OURS


def _has_traces(path: Path) -> bool:
    """Whether a run has been here of which no configuration is left."""
    named = (path / name for name in (LOG_FILE, SAMPLES_FILE, RESULT_FILE, FINAL_FOLDER))
    return any(p.exists() for p in named) or bool(checkpoints(path))


def candidate_folders(output_dir: str) -> Iterator[Path]:
    """DIR, DIR-2, DIR-3, ..."""
    first = named_path(output_dir)
    yield first
    # "." and ".." have no name to put a number behind.
    first = first if first.name not in ("", "..") else first.resolve()
    for number in range(2, sys.maxsize):
        yield first.with_name(f"{first.name}-{number}")


def choose_folder(cfg: MLXGRPOConfig, strict: bool) -> tuple[Path, Standing]:
    """The folder that the run would take now, and what it is; touches nothing.

    Raises ConfigError in strict mode where `output_dir` holds another configuration.
    """
    wanted = config_hash(cfg)
    for path in candidate_folders(cfg.output_dir):
        standing = standing_of(path, wanted)
        if standing is not Standing.OTHERS:
            return path, standing
        if strict:
            raise ConfigError(
                f"output_dir = {str(path)!r}: holds another configuration"
                f"{_difference(path, cfg)}; choose another folder"
            )
    raise AssertionError("there is always a free folder")


def claim_folder(
    cfg: MLXGRPOConfig,
    strict: bool,
    should_stop: Callable[[float], bool],
    wait: bool = True,
) -> RunFolder:
    """Take the run's folder, locked, with config.resolved.json in it; waits where it is in use.

    Raises ConfigError for a folder that cannot be used, and Interrupted as `lock.acquire` does.
    """
    while True:
        path, standing = choose_folder(cfg, strict)
        if standing is Standing.DONE:
            result = read_json(path / RESULT_FILE) or {}
            return RunFolder(path, _with_folder(cfg, path), None, result)
        if fault := folder_fault(path):
            raise ConfigError(f"output_dir = {str(path)!r}: {fault}")
        lock = Lock(path / LOCK_FILE, what=cfg.run_name)
        # Whoever holds the lock may write its configuration, or finish, while we wait.
        lost = partial(_is_lost, path, config_hash(cfg))
        if acquire(lock, str(path), should_stop, wait, lost) and not lost():
            return _settle(cfg, path, lock)
        lock.release()


def _is_lost(path: Path, wanted_hash: str) -> bool:
    return standing_of(path, wanted_hash) in (Standing.OTHERS, Standing.DONE)


def _settle(cfg: MLXGRPOConfig, path: Path, lock: Lock) -> RunFolder:
    """The folder is ours: mend what a death left, drop the last attempt's verdict, sign it."""
    if path != (first := named_path(cfg.output_dir)):
        tell(
            f"[output] {cfg.output_dir} holds another configuration"
            f"{_difference(first, cfg)}; writing to {path}"
        )
    cfg = _with_folder(cfg, path)
    put_back(path)
    if (read_json(path / CONFIG_FILE) or {}).get("hash") != config_hash(cfg):
        # Of another configuration, which has learnt nothing here.
        for name in (LOG_FILE, SAMPLES_FILE):
            (path / name).unlink(missing_ok=True)
    (path / RESULT_FILE).unlink(missing_ok=True)
    write_json(path / CONFIG_FILE, {**resolved_dict(cfg), "versions": versions()})
    return RunFolder(path, cfg, lock, {})


def _with_folder(cfg: MLXGRPOConfig, path: Path) -> MLXGRPOConfig:
    if path == named_path(cfg.output_dir):
        path = home_path(cfg.output_dir)
    return cfg if path == Path(cfg.output_dir) else replace(cfg, output_dir=str(path))


def _difference(path: Path, cfg: MLXGRPOConfig) -> str:
    """What the folder's configuration has otherwise, in brackets: the first few fields."""
    there = read_json(path / CONFIG_FILE) or {}
    names = [
        name
        for name, info in FIELDS.items()
        if info.hashed and name in there and there[name] != getattr(cfg, name)
    ]
    parts = [f"{name} = {there[name]!r}, not {getattr(cfg, name)!r}" for name in names[:3]]
    if len(names) > 3:
        parts.append(f"and {len(names) - 3} more")
    return f" ({'; '.join(parts)})" if parts else ""


def versions() -> dict[str, str]:
    """What the run was made with."""
    return {**package_versions(), "platform": platform()}
