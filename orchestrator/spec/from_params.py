"""`--config FILE --param key=v1,v2` -> the text of the spec that this stands for; reads nothing."""

from collections.abc import Sequence
from pathlib import Path

from grpo_core.config import parse_toml, toml_value
from grpo_core.errors import ConfigError
from orchestrator.errors import UsageError
from orchestrator.names import MAX_NAME_BYTES, cut, safe_name
from orchestrator.text import SHORT_NAMES


def spec_from_params(config: str | None, params: Sequence[str]) -> tuple[Path, str]:
    """The name and the text of a spec with these axes; UsageError where one cannot be read."""
    axes = dict(map(_axis, params))
    if len(axes) < len(params):
        raise UsageError("--param: names a field twice; give its values in one, key=v1,v2")
    lines = [] if config is None else [f"config = {toml_value(config)}", ""]
    lines += ["[params]", *(f"{key} = {values}" for key, values in axes.items()), ""]
    name = "-".join(SHORT_NAMES.get(key, key) for key in axes)
    return Path(f"{cut(safe_name(name), MAX_NAME_BYTES - 10)}.toml"), "\n".join(lines)


def _axis(item: str) -> tuple[str, str]:
    """The field and its list as TOML writes it: numbers as they stand, what is no TOML as texts."""
    key, equals, text = item.partition("=")
    if not equals or not key.strip() or not text.strip():
        raise UsageError(f"--param {item}: write key=v1,v2, such as learning_rate=1e-4,1e-3")
    values = f"[{text.strip()}]"
    try:
        parse_toml(f"values = {values}\n", "--param")
    except ConfigError:
        values = toml_value([part.strip() for part in text.split(",")])
    return key.strip(), values
