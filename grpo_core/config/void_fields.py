"""Fields that another field makes void: whatever they say, the run is the same.

One table. The trainer prints a note for each that was set; a sweep that varies one is refused,
since it would train the same run several times and rank them. Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

from grpo_core.config.fields import FIELDS, MLXGRPOConfig, is_data_file

ADAPTER_SHAPE = ("lora_rank", "lora_scale", "lora_dropout", "lora_layers", "lora_keys")
SYNC = ("sync_ref_model", "ref_model_mixup_alpha", "ref_model_sync_steps")
CLIP = ("clip_eps", "clip_eps_high", "clip_delta")
EVALUATION = (
    *("eval_at_start", "eval_at_end", "eval_max_new_tokens", "eval_num_generations"),
    *("eval_rewards", "eval_reward_weights"),
)
PLUGIN = (
    *("reward_on_error", "reward_timeout_s"),
    *("reward_load_timeout_s", "completion_format"),
)


@dataclass(frozen=True)
class VoidRule:
    """These fields mean nothing `when` a configuration is so; `why` completes the message."""

    fields: tuple[str, ...]
    when: Callable[[MLXGRPOConfig], bool]
    why: str


def _is_local(dataset: str) -> bool:
    return dataset.startswith("builtin/") or is_data_file(dataset)


def _is_unfiltered(cfg: MLXGRPOConfig) -> bool:
    filters = cfg.top_p < 1 or cfg.top_k > 0 or cfg.min_p > 0
    return not filters and cfg.repetition_penalty == 1


def _evaluates_nothing(cfg: MLXGRPOConfig) -> bool:
    return cfg.eval_steps == 0 and cfg.eval_every_updates == 0


VOID_RULES = (
    VoidRule(
        (*ADAPTER_SHAPE, "adapter_path"),
        lambda cfg: cfg.train_type == "full",
        "train_type = full, which has no adapters",
    ),
    VoidRule(
        ("quantize_for_rollouts",),
        lambda cfg: cfg.train_type == "full",
        "train_type = full, where nothing is frozen",
    ),
    VoidRule(
        ADAPTER_SHAPE,
        lambda cfg: bool(cfg.adapter_path),
        "adapter_path is set, and those adapters bring their own shape",
    ),
    VoidRule(
        ("model_revision",),
        lambda cfg: cfg.model_name.startswith(("builtin/", "/", ".", "~")),
        "model_name is no hub repository",
    ),
    VoidRule(
        ("dataset_config",),
        lambda cfg: _is_local(cfg.dataset) and cfg.eval_dataset in ("", cfg.dataset),
        "dataset is no hub repository",
    ),
    VoidRule(
        ("dataset_split",),
        lambda cfg: is_data_file(cfg.dataset),
        "dataset is a file, which has no splits",
    ),
    VoidRule(
        ("eval_split",),
        lambda cfg: is_data_file(cfg.eval_dataset or cfg.dataset),
        "the held-out rows are in a file, which has no splits",
    ),
    VoidRule(
        PLUGIN,
        lambda cfg: all(":" not in name for name in (*cfg.rewards, *cfg.eval_rewards)),
        "all rewards are built in",
    ),
    VoidRule(
        ("overlong_penalty",), lambda cfg: cfg.overlong_buffer == 0, "overlong_buffer = 0 is off"
    ),
    VoidRule(
        ("max_completion_length",),
        lambda cfg: cfg.max_completion_length > cfg.max_new_tokens,
        "max_new_tokens is smaller, and the smaller of the two counts",
    ),
    VoidRule(
        ("max_new_tokens",),
        lambda cfg: cfg.max_new_tokens > cfg.max_completion_length,
        "max_completion_length is smaller, and the smaller of the two counts",
    ),
    VoidRule(
        (*CLIP, "off_policy_mask_threshold", "old_logprobs"),
        lambda cfg: cfg.num_iterations == cfg.updates_per_generation == 1,
        "num_iterations = 1: the policy that learns is the one that sampled, its ratio is 1 and is "
        "never clipped",
    ),
    VoidRule(
        ("clip_eps", "clip_delta"),
        lambda cfg: cfg.loss_type == "cispo" and cfg.clip_eps_high > 0,
        "loss_type = cispo caps the ratio at 1 + clip_eps_high only",
    ),
    VoidRule(
        ("clip_delta",), lambda cfg: cfg.loss_type in ("cispo", "sapo"), "its loss_type has no clip"
    ),
    VoidRule(CLIP, lambda cfg: cfg.loss_type == "vespo", "loss_type = vespo has no clip"),
    VoidRule(
        ("kl_estimator", *SYNC), lambda cfg: cfg.kl_coeff == 0, "kl_coeff = 0: there is no KL term"
    ),
    VoidRule(SYNC[1:], lambda cfg: not cfg.sync_ref_model, "sync_ref_model is off"),
    VoidRule(
        ("scale_rewards",),
        lambda cfg: cfg.multi_objective_aggregation == "normalize_then_sum",
        "multi_objective_aggregation = normalize_then_sum divides by deviations of its own",
    ),
    VoidRule(
        ("resample_rounds",),
        lambda cfg: cfg.zero_variance not in ("resample", "refill"),
        "zero_variance draws nothing again (resample, refill)",
    ),
    VoidRule(
        ("rollout_is",),
        _is_unfiltered,
        "top_p, top_k, min_p and repetition_penalty are off: the policy itself is sampled",
    ),
    VoidRule(
        ("rollout_is_max",),
        lambda cfg: cfg.rollout_is == "none" or _is_unfiltered(cfg),
        "no rollout weights are taken",
    ),
    VoidRule(
        ("warmup_ratio",),
        lambda cfg: cfg.lr_scheduler_type == "constant",
        "lr_scheduler_type = constant has no warm-up; constant_with_warmup has one",
    ),
    VoidRule(
        ("save_best", "eval_part", "metric_for_best_model"),
        lambda cfg: cfg.eval_steps == 0 or cfg.eval_samples == 0,
        "nothing is evaluated on held-out rows (eval_steps, eval_samples)",
    ),
    VoidRule(
        ("eval_subset_size",),
        lambda cfg: cfg.eval_every_updates == 0,
        "eval_every_updates = 0 is off",
    ),
    VoidRule(
        (*EVALUATION, "eval_temperature"),
        _evaluates_nothing,
        "nothing is evaluated (eval_steps, eval_every_updates)",
    ),
)


def void_fields(cfg: MLXGRPOConfig) -> dict[str, str]:
    """Each field that means nothing in this configuration, and why."""
    found: dict[str, str] = {}
    for rule in VOID_RULES:
        if rule.when(cfg):
            for name in rule.fields:
                found.setdefault(name, rule.why)
    return found


def void_notes(cfg: MLXGRPOConfig) -> list[str]:
    """A line for each void field that says something else than its default."""
    return [
        f"{name} = {getattr(cfg, name)!r} has no effect: {why}"
        for name, why in void_fields(cfg).items()
        # quantize_for_rollouts is on by default, and has an advice of its own.
        if getattr(cfg, name) != FIELDS[name].default and name != "quantize_for_rollouts"
    ]
