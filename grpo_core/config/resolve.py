"""The standard resolution: defaults <- TOML file <- each `--set key=value`, then validation.

Imports no mlx, so the orchestrator may use it. What each field means stands in `fields.py`, what
text stands for in `values.py`, what is refused in `validation.py`. The lines on stderr are what
users of MLX-GRPO know, word for word.
"""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tomli

from grpo_core.config.fields import FIELDS, FieldInfo, MLXGRPOConfig
from grpo_core.config.validation import find_faults
from grpo_core.config.values import (
    did_you_mean,
    fit,
    jsonable,
    nearest_file,
    parse_text,
    tag_value,
    type_label,
    unquote,
)
from grpo_core.errors import ConfigError
from grpo_core.terminal import tell

ENV_CONFIG = "MLX_GRPO_CONFIG"
DEFAULT_CONFIG = "configs/default.toml"


Warn = Callable[[str], None]


# --- the TOML file


def parse_toml(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """The TOML document; ConfigError with `PATH:line:column` on a syntax error."""
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as e:
        raise ConfigError(f"{path}:{e.lineno}:{e.colno}: not valid TOML: {e.msg}") from None


def must_be_file(path: str | os.PathLike[str]) -> None:
    """ConfigError for what would block, or never end: a pipe, a socket, a device. OSError."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ConfigError(f"{path}: a pipe or a device; save it as a file")


def _read_text(path: str | os.PathLike[str]) -> str:
    try:
        must_be_file(path)
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise ConfigError(f"{path}: not UTF-8 text (byte {e.start}); save it as UTF-8") from None
    except OSError as e:
        raise ConfigError(f"{path}: cannot be read: {e.strerror}") from None


def load_toml_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The keys of a config file, flat, with its tags under `extra`.

    The file holds flat keys or one `[mlx_grpo]` table; both at once is a ConfigError.
    """
    return parse_config(_read_text(path), path)


def parse_config(text: str, path: str | os.PathLike[str]) -> dict[str, Any]:
    """As `load_toml_config` for the text of a file; `path` is for messages."""
    return _flatten(parse_toml(text, path), path)


def _flatten(document: dict[str, Any], path: str | os.PathLike[str]) -> dict[str, Any]:
    tags = document.pop("extra", {})
    if not isinstance(tags, dict):
        raise ConfigError(f"{path}: extra = {tags!r}: must be a table of tags, [extra]")
    table = document.pop("mlx_grpo", None)
    if table is None:
        table = document
    elif not isinstance(table, dict):
        raise ConfigError(f"{path}: mlx_grpo = {table!r}: must be a table, [mlx_grpo]")
    elif document:
        raise ConfigError(
            f"{path}: keys both inside and outside [mlx_grpo] ({', '.join(document)}); "
            "move them all to one place"
        )
    else:
        table = dict(table)
        tags = {**tags, **table.pop("extra", {})}
    return {**table, "extra": tags} if tags else table


def update_config_from_dict(
    cfg: MLXGRPOConfig, d: dict[str, Any], warn: Warn = tell
) -> MLXGRPOConfig:
    """Set the fields that `d` names, in place; returns `cfg`.

    Unknown keys become tags. A value that does not fit stays as it is, for `validate` to refuse.
    """
    for key, value in d.items():
        if key == "extra" and isinstance(value, dict):
            cfg.extra.update(jsonable(value))
        elif key not in FIELDS:
            warn(f"[warn] unknown config key: {key}")
            cfg.extra[key] = jsonable(value)
        elif isinstance(value, str):
            _set_from_text(cfg, key, value, warn)
        else:
            _set_fitting(cfg, key, value, warn)
    return cfg


def _set_fitting(cfg: MLXGRPOConfig, key: str, value: Any, warn: Warn) -> None:
    try:
        value = fit(value, FIELDS[key].type)
    except (ValueError, OverflowError):
        value = str(jsonable(value))
        warn(_coerce_warning(value, FIELDS[key]))
    setattr(cfg, key, value)


def _coerce_warning(text: str, info: FieldInfo) -> str:
    return f"[warn] failed to coerce '{text}' to {type_label(info.type)}; using string"


def _set_from_text(cfg: MLXGRPOConfig, key: str, text: str, warn: Warn) -> None:
    """Users quote numbers in TOML too; a string field takes the string as it stands."""
    info = FIELDS[key]
    value: Any = text
    if info.type != "str":
        try:
            value = parse_text(text.strip(), info.type)
        except (ValueError, OverflowError):
            value = unquote(text)
            warn(_coerce_warning(value, info))
    setattr(cfg, key, value)


# --- --set


def apply_overrides(
    cfg: MLXGRPOConfig, overrides: Sequence[str], strict: bool = False
) -> MLXGRPOConfig:
    """Apply each `key=value`, in order and in place; returns `cfg`.

    Lenient: warns on stderr and goes on. Strict: one ConfigError with every fault.
    """
    faults: list[str] = []
    warn = _strict_warn(faults, "--set") if strict else tell
    _apply(cfg, overrides, warn)
    if faults:
        raise ConfigError(*faults)
    return cfg


def _apply(cfg: MLXGRPOConfig, overrides: Sequence[str], warn: Warn) -> None:
    for item in overrides:
        key, sign, text = item.partition("=")
        key, text = key.strip(), text.strip()
        if not sign:
            warn(f"[warn] ignoring override (no '='): {item}")
        elif (field := set_field(item)) != key:
            table = getattr(cfg, field)
            # The file may say something else; `validate` refuses that.
            if isinstance(table, dict):
                table[key.removeprefix(f"{field}.")] = tag_value(text)
        elif key not in FIELDS:
            warn(f"[warn] unknown config key: {key}")
            cfg.extra[key] = tag_value(text)
        elif FIELDS[key].type == "str":
            setattr(cfg, key, unquote(text))
        else:
            _set_from_text(cfg, key, text, warn)


def set_field(item: str) -> str:
    """The field that an item of `--set` gives a value: of `table.key=value` the table."""
    key = item.partition("=")[0].strip()
    field = key.partition(".")[0]
    return field if field in FIELDS and FIELDS[field].type == "table" else key


def _strict_warn(faults: list[str], where: str) -> Warn:
    """Collects what would be a warning as a fault, with the nearest name for an unknown key."""

    def warn(line: str) -> None:
        text = line.removeprefix("[warn] ")
        if text.startswith("unknown config key: "):
            text += did_you_mean(text.removeprefix("unknown config key: "), FIELDS)
        if text.startswith("ignoring override"):
            text = text.replace("ignoring override", "not an override") + "; write key=value"
        faults.append(f"{where}: {text.removesuffix('; using string')}")

    return warn


# --- the whole resolution


def config_path(path: str | None) -> str:
    """The file that counts: `--config`, else a non-empty MLX_GRPO_CONFIG, else the default."""
    return path or os.environ.get(ENV_CONFIG) or DEFAULT_CONFIG


def resolve_config(
    path: str | None, overrides: Sequence[str] = (), strict: bool = False
) -> MLXGRPOConfig:
    """The final, validated configuration.

    Raises ConfigError with every fault at once: in strict mode each `[warn]` and a missing file
    are faults too.
    """
    path = config_path(path)
    cfg = MLXGRPOConfig()
    faults: list[str] = []
    data: dict[str, Any] = {}
    if Path(path).exists():
        tell(f"[config] loading {path}")
        data = load_toml_config(path)
        update_config_from_dict(cfg, data, _strict_warn(faults, path) if strict else tell)
    elif strict:
        faults.append(f"{path}: config file not found{_nearest_message(path, '; the nearest is ')}")
    else:
        tell(f"[config] file not found, using defaults: {path}")
        tell(f"[config] {_nearest_message(path, 'nearest file: ') or 'no .toml file is near'}")
    if overrides:
        tell(f"[config] applying overrides: {list(overrides)}")
        _apply(cfg, overrides, _strict_warn(faults, "--set") if strict else tell)
    # In strict mode a value that does not fit is named once, by validation, which says what fits.
    faults = [fault for fault in faults if "failed to coerce" not in fault]
    set_keys = {set_field(item) for item in overrides}
    for fault in find_faults(cfg):
        where = "--set" if fault.field in set_keys else path if fault.field in data else "default"
        faults.append(f"{where}: {fault.text}")
    if faults:
        raise ConfigError(*faults)
    return cfg


def _nearest_message(path: str, lead: str) -> str:
    near = nearest_toml(Path(path), Path("configs"), Path())
    return f"{lead}{near}" if near else ""


def nearest_toml(path: Path, *folders: Path) -> Path | None:
    """The TOML file whose name is most like the missing one, beside it or in one of `folders`."""
    found = [p for folder in (path.parent, *folders) for p in sorted(folder.glob("*.toml"))]
    return nearest_file(path, (p for p in found if p.name != "pyproject.toml"))


# --- the final configuration as data


def config_hash(cfg: MLXGRPOConfig) -> str:
    """SHA-256 over what makes a run what it is.

    Leaves out output_dir, run_name, tags, logging and memory fields.
    """
    kept = {name: getattr(cfg, name) for name, info in FIELDS.items() if info.hashed}
    text = json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def resolved_dict(cfg: MLXGRPOConfig) -> dict[str, Any]:
    """Every field at the top level, plus `extra` and `hash`: the body of config.resolved.json."""
    return {**asdict(cfg), "hash": config_hash(cfg)}
