"""The base config of a sweep: found, read strictly, and kept word for word with the sweep."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    config_path,
    did_you_mean,
    load_toml_config,
    nearest_toml,
    parse_config,
    update_config_from_dict,
)
from grpo_core.errors import ConfigError
from orchestrator.run import Plan, Sweep
from orchestrator.spec.document import Document
from orchestrator.spec.fields import RESERVED


@dataclass(frozen=True)
class Base:
    """A base config; `config` is None where the file cannot be used."""

    source: str
    text: str
    config: MLXGRPOConfig | None

    def held_out_score(self, fixed: Mapping[str, Any]) -> str:
        """What runs go by that take these values for all of them: em or eval_reward."""
        config = self.config or MLXGRPOConfig()
        deciding = ("answer_key", "metric_for_best_model")
        return replace(config, **{k: fixed[k] for k in deciding if k in fixed}).held_out_score


@dataclass(frozen=True)
class FrozenBase:
    """A base config as a sweep keeps it: where it lay and what it said."""

    source: str
    text: str

    @classmethod
    def of(cls, sweep: Sweep | Plan) -> "FrozenBase":
        """The base that a sweep was submitted with."""
        return cls(sweep.config_source, sweep.config_text)


def resolved_base(sweep: Sweep | Plan) -> MLXGRPOConfig:
    """The config that the base of a sweep stands for, a new one at each call.

    A field that is unknown today is left out: the sweep may be older. Raises ConfigError where the
    text cannot be read.
    """
    values = parse_config(sweep.config_text, sweep.config_source)
    return update_config_from_dict(MLXGRPOConfig(), values, _ignore)


def base_values(sweep: Sweep | Plan, keys: Iterable[str]) -> dict[str, Any]:
    """What the base of a sweep says for these fields: its value, else the field's default."""
    wanted = list(keys)
    config = resolved_base(sweep) if wanted else None
    return {key: getattr(config, key) for key in wanted if hasattr(config, key)}


def base_settings(sweep: Sweep | Plan) -> dict[str, Any]:
    """Every setting that the base of a sweep gives its runs, without what is a run's own."""
    return base_values(sweep, (name for name in FIELDS if name not in RESERVED))


def _ignore(_line: str) -> None:
    """What the submit has warned of."""


def read_base(document: Document, folder: Path, frozen: FrozenBase | None = None) -> Base:
    """The base that a spec in `folder` names, else MLX_GRPO_CONFIG, else configs/default.toml.

    With a base that was frozen before no file is looked at.
    """
    if frozen is not None:
        return _parse(frozen.source, frozen.text, document)
    given = document.text("config", "") if "config" in document.values else ""
    file = folder / os.path.expanduser(given) if given else Path(config_path(None))
    try:
        if not file.exists():
            _add_missing(document, file, given)
            return Base(str(file), "", None)
        return _read(document, file)
    except ConfigError as e:
        for fault in e.faults:
            document.faults.add_elsewhere(fault)
    except (OSError, ValueError) as e:
        document.faults.add(("config",), f"{given!r}: cannot be read: {e}", " = ")
    return Base(str(file), "", None)


def _read(document: Document, file: Path) -> Base:
    load_toml_config(file)  # Says what is wrong with the file, by its name as it was given.
    return _parse(shown_path(file), file.read_text(encoding="utf-8-sig"), document)


def _parse(source: str, text: str, document: Document) -> Base:
    """Unknown keys are faults in a sweep; values that do not fit show when runs resolve."""
    config = MLXGRPOConfig()
    warnings: list[str] = []
    update_config_from_dict(config, parse_config(text, source), warnings.append)
    for fault in _unknown_keys(warnings):
        document.faults.add_elsewhere(f"{source}: {fault}")
    return Base(source, text, config)


def _unknown_keys(warnings: Sequence[str]) -> list[str]:
    lead = "[warn] unknown config key: "
    keys = [line.removeprefix(lead) for line in warnings if line.startswith(lead)]
    hints = [did_you_mean(key, FIELDS) or "; a tag belongs into [extra]" for key in keys]
    return [f"{key}: unknown field{hint}" for key, hint in zip(keys, hints, strict=True)]


def _add_missing(document: Document, file: Path, given: str) -> None:
    near = nearest_message(file)
    if given:
        text = f"{given!r}: no such file: {os.path.normpath(file)}{near}"
        document.faults.add(("config",), text, " = ")
    else:
        text = f"none is named, and {file} does not exist{near}"
        hint = 'write config = "path/to/base.toml" (relative to the spec)'
        document.faults.add(("config",), f"{text}; {hint}")


def nearest_message(path: Path) -> str:
    """`; the nearest is X` for a missing TOML file, or nothing."""
    try:
        best = nearest_toml(path, Path("sweeps"), Path("configs"), Path())
    except (OSError, ValueError):  # A folder that cannot be listed, or no path at all.
        return ""
    return f"; the nearest is {best}" if best else ""


def shown_path(file: Path) -> str:
    """The path from the working folder where the file lies under it, else the whole path."""
    real = file.resolve()
    try:
        return str(real.relative_to(Path.cwd()))
    except ValueError:
        return str(real)
