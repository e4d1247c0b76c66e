"""Which runs take about as long: those of one kind, which is what these fields of theirs say.

The queue keeps its counts and times by kind (`totals` in `schema.py`), and a forecast compares
configurations by it. A change of the list needs a migration that puts the column anew.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Loading it takes time, which a status must not.
    from grpo_core.config import MLXGRPOConfig

KIND_FIELDS = (
    *("model_name", "train_type", "dataset", "batch_size", "gradient_accumulation_steps"),
    *("num_epochs", "max_train_samples", "num_generations", "num_iterations"),
    *("max_new_tokens", "max_completion_length", "eval_steps", "eval_samples"),
    *("eval_every_updates", "eval_subset_size", "eval_max_new_tokens", "eval_num_generations"),
    *("eval_at_start", "eval_at_end"),
)


def kind_of(config: "MLXGRPOConfig") -> tuple[object, ...]:
    """The kind of a configuration; of the KL term only whether there is one costs time."""
    return (*(str(getattr(config, name)) for name in KIND_FIELDS), config.kl_coeff > 0)


def kind_sql() -> str:
    """The kind of a row of `runs`, from the overrides of its sweep's base."""
    paths = ", ".join(f"'$.{name}'" for name in KIND_FIELDS)
    return (
        f"CASE WHEN json_valid(overrides) THEN json_extract(overrides, {paths})"
        " || coalesce(json_extract(overrides, '$.kl_coeff') > 0, '') ELSE '' END"
    )
