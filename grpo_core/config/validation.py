"""What makes a configuration impossible: types, ranges, choices, fields that fight.

Pure; finds every fault at once. The ranges themselves stand in `fields.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from grpo_core.config.fields import (
    FIELDS,
    REWARD_NAMES,
    REWARDS_BY_ANSWER,
    SEQUENCE_LEVEL,
    FieldInfo,
    MLXGRPOConfig,
)
from grpo_core.config.values import did_you_mean, fit
from grpo_core.config.void_fields import void_notes
from grpo_core.errors import ConfigError

# Below this a LoRA run hardly moves: its best rate is about ten times that of full fine-tuning.
LORA_RATE_FLOOR = 1e-5


@dataclass(frozen=True)
class Fault:
    """One reason to refuse a configuration."""

    field: str
    text: str


def validate(cfg: MLXGRPOConfig) -> None:
    """Refuse a configuration that cannot mean what it says.

    Raises one ConfigError with every fault: types, ranges, choices and contradictions.
    """
    faults = find_faults(cfg)
    if faults:
        raise ConfigError(*(fault.text for fault in faults))


def find_faults(cfg: MLXGRPOConfig) -> list[Fault]:
    """Every fault of a configuration; contradictions only among fields that are whole."""
    faults = []
    for name, info in FIELDS.items():
        value = getattr(cfg, name)
        try:
            # Types were settled on the way in; what still does not fit was kept as its text.
            fit(value, info.type)
        except (ValueError, OverflowError):
            faults.append(Fault(name, f"{name} = {value!r}: must be {type_description(info.type)}"))
            continue
        text = range_fault(info, value)
        if text:
            faults.append(Fault(name, text))
    bad = {fault.field for fault in faults}
    # What is compared must be of its type.
    whole = replace(cfg, **{name: FIELDS[name].default for name in bad})
    return faults + [
        Fault(involved[0], text)
        for involved, text in _contradictions(whole)
        if not bad.intersection(involved)
    ]


def type_description(kind: str) -> str:
    """What a field of this type takes, as a part of a message."""
    known = {
        "int": "a whole number",
        "float": "a number",
        "bool": "true or false (also 1/0, yes/no, on/off)",
        "str": "text",
        "list[str]": 'a list of texts, such as ["a", "b"]',
        "list[float]": "a list of numbers, such as [1.0, 0.5]",
        "table": "a table, such as {a = true, b = 1}",
    }
    return known[kind]


def range_fault(info: FieldInfo, value: Any) -> str:
    """Why a value of the right type is refused; empty where it is not."""
    numbers = value if isinstance(value, list) else [value]
    if any(isinstance(v, float) and not math.isfinite(v) for v in numbers):
        return f"{info.name} = {value!r}: must be finite"
    if info.choices and value not in info.choices:
        near = did_you_mean(str(value), info.choices)
        return f"{info.name} = {value!r}: must be {info.allowed}{near}"
    if isinstance(value, int | float) and not isinstance(value, bool) and _outside(info, value):
        return f"{info.name} = {value!r}: must be {info.allowed}"
    return ""


def _outside(info: FieldInfo, value: float) -> bool:
    return (
        (info.min is not None and value < info.min)
        or (info.max is not None and value > info.max)
        or (info.above is not None and value <= info.above)
        or (info.below is not None and value >= info.below)
    )


Contradiction = tuple[tuple[str, ...], str]


def _contradictions(cfg: MLXGRPOConfig) -> list[Contradiction]:
    """Fields that fight; the first named is the one to change."""
    found: list[Contradiction] = []
    found += _reward_contradictions("rewards", "reward_weights", cfg)
    found += _reward_contradictions("eval_rewards", "eval_reward_weights", cfg)
    if not cfg.rewards:
        found.append((("rewards",), "rewards = []: at least one reward is needed"))
    if not cfg.answer_key and cfg.metric_for_best_model == "em":
        found.append(
            (
                ("metric_for_best_model", "answer_key"),
                "metric_for_best_model = 'em': there is no exact match without reference answers "
                "(answer_key = ''); eval_reward needs none",
            )
        )
    found += _objective_contradictions(cfg)
    if cfg.eval_num_generations > 1 and cfg.eval_temperature == 0:
        found.append(
            (
                ("eval_num_generations", "eval_temperature"),
                f"eval_num_generations = {cfg.eval_num_generations}: greedy answers "
                "(eval_temperature = 0) are all the same; set eval_temperature above 0",
            )
        )
    if cfg.lora_layers == 0:
        found.append((("lora_layers",), "lora_layers = 0: no block would learn; -1 takes all"))
    for name in ("model_name", "dataset", "output_dir", "prompt_key"):
        if not getattr(cfg, name).strip():
            found.append(((name,), f"{name} = '': must not be empty"))
    return found


def _reward_contradictions(
    field: str, weights_field: str, cfg: MLXGRPOConfig
) -> list[Contradiction]:
    """Of a list of rewards and of its weights."""
    names, weights = getattr(cfg, field), getattr(cfg, weights_field)
    found: list[Contradiction] = []
    for name in names:
        if name not in REWARD_NAMES and ":" not in name:
            known = ", ".join(REWARD_NAMES)
            found.append(
                (
                    (field,),
                    f"{field}: {name!r} is none of {known}, nor file.py:function"
                    + did_you_mean(name, REWARD_NAMES),
                )
            )
        if name in REWARDS_BY_ANSWER and not cfg.answer_key:
            found.append(
                (
                    (field, "answer_key"),
                    f"{field}: {name!r} compares with reference answers, and there are none "
                    "(answer_key = ''); leave it out, or name their column",
                )
            )
    if len(set(names)) < len(names):
        found.append(((field,), f"{field} = {names}: one stands twice; use a weight"))
    if weights and len(weights) != len(names):
        found.append(
            (
                (weights_field, field),
                f"{weights_field} = {weights}: {len(weights)} weights for {len(names)} {field}",
            )
        )
    elif weights and not any(weights):
        found.append(((weights_field,), f"{weights_field} = {weights}: at least one must not be 0"))
    return found


def _objective_contradictions(cfg: MLXGRPOConfig) -> list[Contradiction]:
    found: list[Contradiction] = []
    level = cfg.importance_sampling_level
    wanted = dict.fromkeys(SEQUENCE_LEVEL, "sequence") | dict.fromkeys(("cispo", "sapo"), "token")
    if level != "auto" and wanted.get(cfg.loss_type, level) != level:
        found.append(
            (
                ("importance_sampling_level", "loss_type"),
                f"importance_sampling_level = {level!r}: {cfg.loss_type} is defined "
                f"for {wanted[cfg.loss_type]} ratios; leave it at auto",
            )
        )
    if cfg.overlong_buffer > cfg.completion_limit:
        found.append(
            (
                ("overlong_buffer", "max_new_tokens", "max_completion_length"),
                f"overlong_buffer = {cfg.overlong_buffer}: above the completion limit, "
                f"{cfg.completion_limit}",
            )
        )
    if cfg.loss_type == "rloo" and cfg.multi_objective_aggregation == "normalize_then_sum":
        found.append(
            (
                ("multi_objective_aggregation", "loss_type"),
                "multi_objective_aggregation = 'normalize_then_sum': rloo takes the mean of the "
                "other completions' whole rewards; leave it at sum_then_normalize",
            )
        )
    if cfg.loss_type == "vespo" and cfg.rollout_is.startswith("sequence"):
        found.append(
            (
                ("rollout_is", "loss_type"),
                f"rollout_is = {cfg.rollout_is!r}: vespo multiplies the tokens' weights into its "
                "ratio of the whole completion; use token_truncate, token_mask or none",
            )
        )
    if cfg.steps_per_generation % cfg.gradient_accumulation_steps:
        found.append(
            (
                ("steps_per_generation", "gradient_accumulation_steps"),
                f"steps_per_generation = {cfg.steps_per_generation}: must be a multiple of "
                f"gradient_accumulation_steps ({cfg.gradient_accumulation_steps}), so that its "
                "rollouts make whole updates, or 0",
            )
        )
    m, drawn = cfg.num_train_generations, cfg.num_generations
    if m == 1 or m > drawn:
        found.append(
            (
                ("num_train_generations", "num_generations"),
                f"num_train_generations = {m}: must be at least 2 and at most num_generations "
                f"({drawn}), or 0 for all",
            )
        )
    early = cfg.early_group_size
    if early == 1 or early >= drawn:
        found.append(
            (
                ("early_group_size", "num_generations"),
                f"early_group_size = {early}: must be at least 2 and below num_generations "
                f"({drawn}), or 0 for all at once",
            )
        )
    if early and cfg.zero_variance == "keep":
        found.append(
            (
                ("early_group_size", "zero_variance"),
                f"early_group_size = {early}: groups that are broken off cannot be learnt from, as "
                "zero_variance = 'keep' asks for; take skip, resample or refill",
            )
        )
    if cfg.clip_delta and cfg.clip_delta <= 1 + (cfg.clip_eps_high or cfg.clip_eps):
        found.append(
            (
                ("clip_delta", "clip_eps_high", "clip_eps"),
                f"clip_delta = {cfg.clip_delta!r}: must be above 1 + clip_eps_high "
                f"({1 + (cfg.clip_eps_high or cfg.clip_eps):g}), or 0 for off",
            )
        )
    return found


def advice(cfg: MLXGRPOConfig) -> list[str]:
    """Lines about settings that are legal but seldom meant."""
    lines = []
    if cfg.train_type != "full" and 0 < cfg.learning_rate < LORA_RATE_FLOOR:
        lines.append(
            f"learning_rate {cfg.learning_rate!r} is low for {cfg.train_type}, which wants about "
            "ten times the rate of full fine-tuning; try 1e-5 or more"
        )
    if cfg.kl_coeff > 0 and cfg.kl_estimator == "k1":
        lines.append(
            "kl_estimator k1 does not hold the policy: its gradient is zero on average; try k3"
        )
    if cfg.train_type == "full" and cfg.quantize_for_rollouts:
        lines.append("quantize_for_rollouts is off: with train_type full nothing is frozen")
    return lines + void_notes(cfg)


def check_value(name: str, value: Any) -> Any:
    """A Python value for the field `name` as its type, checked against range and choices.

    Raises ConfigError with the field, the value and what is allowed.
    """
    info = FIELDS[name]
    try:
        fitted = fit(value, info.type)
    except (ValueError, OverflowError):
        raise ConfigError(f"{name} = {value!r}: must be {type_description(info.type)}") from None
    fault = range_fault(info, fitted)
    if fault:
        raise ConfigError(fault)
    return fitted
