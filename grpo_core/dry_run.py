"""`--dry-run`: what the run would be, without training, writing or taking the GPU.

The data are read and the prompts counted, the model's sizes come from its config.json alone. What
is printed is a TOML file: the resolved configuration, and what is known about the run as comments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from grpo_core.config import (
    FIELDS,
    GROUPS,
    MLXGRPOConfig,
    config_hash,
    toml_value,
)
from grpo_core.data.prompts import Prompt
from grpo_core.data.splits import Data, load_data
from grpo_core.model.base_model import load_tokenizer_of, read_model_config
from grpo_core.rewards.builtin import load_eval_rewards, load_rewards
from grpo_core.run.console import MB
from grpo_core.run.folder import Standing, choose_folder
from grpo_core.update.memory_estimate import Estimate, Part, estimate, model_shape
from grpo_core.update.memory_plan import budget_bytes, choose_plan
from grpo_core.update.schedule import make_schedule

_STANDING = {
    Standing.FREE: "a new run",
    Standing.OURS: "would go on with the run that is there",
    Standing.DONE: "is completed: nothing would be trained",
}


def describe(cfg: MLXGRPOConfig, strict: bool) -> Iterator[str]:
    """Line by line, as it becomes known.

    Raises what the run itself would meet: ConfigError, RewardError, DataError, ModelError.
    """
    yield from _config_lines(replace(cfg, dry_run=False))
    yield f"\n# hash: {config_hash(cfg)}"
    path, standing = choose_folder(cfg, strict)
    yield f"# output: {path} ({_STANDING[standing]})"
    load_rewards(cfg).close()
    load_eval_rewards(cfg).close()
    data = load_data(cfg, load_tokenizer_of(cfg))
    yield from _length_lines(cfg, data)
    shape = model_shape(read_model_config(cfg), cfg)
    longest = max(len(prompt.ids) for prompt in data.train)
    plan = choose_plan(shape, cfg, budget_bytes(cfg), shape.can_share_prefix)
    settled = replace(cfg, **plan.settings)  # type: ignore[arg-type]
    yield f"# cut: {', '.join(f'{name} = {value}' for name, value in plan.settings.items())}"
    yield (
        f"# decoded together: up to {plan.rollout_rows} completions in a rollout, "
        f"{plan.eval_rows} in an evaluation"
    )
    longest_eval = max((len(prompt.ids) for prompt in (*data.test, *data.train_eval)), default=0)
    found = estimate(
        *(shape, settled, max(longest, longest_eval)),
        rollout_rows=plan.rollout_rows,
        eval_rows=plan.eval_rows,
    )
    yield from _memory_lines(found, max(longest, longest_eval))


def _config_lines(cfg: MLXGRPOConfig) -> list[str]:
    """Every field as TOML, by group, and the tags."""
    lines = []
    for group in GROUPS:
        lines += ["", f"# {group}"]
        names = [name for name, info in FIELDS.items() if info.group == group]
        lines += [f"{name} = {toml_value(getattr(cfg, name))}" for name in names]
    if cfg.extra:
        lines += ["", "# tags: " + ", ".join(f"{k} = {v!r}" for k, v in cfg.extra.items())]
    return lines[1:]


def _length_lines(cfg: MLXGRPOConfig, data: Data) -> list[str]:
    schedule = make_schedule(cfg, len(data.train))
    per_update = schedule.prompts_per_update
    completions = schedule.updates // cfg.num_iterations * per_update * cfg.num_generations
    lines = [
        f"# updates: {schedule.updates} ({cfg.num_epochs} epochs of {len(data.train)} prompts, "
        f"{per_update} prompts x {cfg.num_generations} completions in each)",
        f"# completions: up to {completions}",
        f"# prompts dropped as too long: {data.dropped}",
        f"# evaluation rows: {_rows(data.test, cfg.eval_steps)} test, "
        f"{_rows(data.train_eval, cfg.eval_every_updates)} train",
    ]
    return lines + [f"# note: {note}" for note in data.notes]


def _rows(prompts: Sequence[Prompt], every: int) -> str:
    """How many rows an evaluation takes; a cadence of 0 switches it off at start and end too."""
    return str(len(prompts)) if every else "0 (off)"


def _memory_lines(found: Estimate, longest: int) -> list[str]:
    lines = [
        f"# peak memory: about {found.peak_bytes / MB:.0f} MB, in the {found.phase} "
        f"(prompts of {longest} tokens)"
    ]
    for title, parts in (
        ("all the time", found.standing),
        ("in a rollout", found.rollout),
        ("in an update", found.update),
        ("in an evaluation", found.evaluation),
    ):
        if not parts:
            continue
        lines += [f"#   {title}", *map(_part_line, parts)]
    return lines


def _part_line(part: Part) -> str:
    return f"#   {part.bytes / MB:10.1f} MB  {part.name}"
