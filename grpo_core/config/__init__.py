"""The configuration of a run: its fields, and the standard resolution of files and overrides.

Loads neither mlx nor numpy, so the orchestrator may use it. What each field means is in
`fields.py`, how text becomes a value in `values.py`, what is refused in `validation.py`, and the
order of resolution in `resolve.py`.
"""

from grpo_core.config.fields import (
    FIELDS,
    GROUPS,
    REWARD_NAMES,
    FieldInfo,
    MLXGRPOConfig,
    is_data_file,
)
from grpo_core.config.other_words import OTHER_WORDS
from grpo_core.config.resolve import (
    DEFAULT_CONFIG,
    ENV_CONFIG,
    apply_overrides,
    config_hash,
    config_path,
    load_toml_config,
    must_be_file,
    nearest_toml,
    parse_config,
    parse_toml,
    resolve_config,
    resolved_dict,
    set_field,
    update_config_from_dict,
)
from grpo_core.config.validation import (
    advice,
    check_value,
    validate,
)
from grpo_core.config.values import (
    ENV_FILES_ROOT,
    did_you_mean,
    format_override,
    format_value,
    home_path,
    named_path,
    nearest_file,
    toml_value,
)
from grpo_core.config.void_fields import void_fields

__all__ = [
    "DEFAULT_CONFIG",
    "ENV_CONFIG",
    "ENV_FILES_ROOT",
    "FIELDS",
    "GROUPS",
    "OTHER_WORDS",
    "REWARD_NAMES",
    "FieldInfo",
    "MLXGRPOConfig",
    "advice",
    "apply_overrides",
    "check_value",
    "config_hash",
    "config_path",
    "did_you_mean",
    "format_override",
    "format_value",
    "home_path",
    "is_data_file",
    "load_toml_config",
    "must_be_file",
    "named_path",
    "nearest_file",
    "nearest_toml",
    "parse_config",
    "parse_toml",
    "resolve_config",
    "resolved_dict",
    "set_field",
    "toml_value",
    "update_config_from_dict",
    "validate",
    "void_fields",
]
