"""Every field of a training configuration: default, meaning, unit, range, choices.

The one source for `--help`, `grpo-sweep fields`, docs/config-fields.md and validation. How files
and `--set` become these values: `resolve.py`. Names follow MLX-GRPO, TRL and mlx-lm.
"""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

DATA_FILES = (".jsonl", ".parquet")
"""The kinds of local files that are read."""


def is_data_file(dataset: str) -> bool:
    """Whether `dataset` names a local file of rows, there or not."""
    return dataset.lower().endswith(DATA_FILES)


DEFAULT_REWARDS = ("correctness", "int", "strict_format", "soft_format", "xmlcount")
REWARD_NAMES = (*DEFAULT_REWARDS, "answer_block")
REWARDS_BY_ANSWER = frozenset({"correctness"})
"""Those that compare a completion with the reference answer."""

SEQUENCE_LEVEL = frozenset({"gspo", "luspo", "rloo", "vespo"})
"""Loss types whose papers take one ratio for each completion."""

SYSTEM_PROMPT = (
    "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
)

GROUPS = (
    "model",
    "data",
    "reward",
    "sampling",
    "objective",
    "optimizer",
    "evaluation",
    "output",
    "memory",
    "health",
)


@dataclass(frozen=True)
class FieldInfo:
    """What is known of one field; bounds are inclusive unless `above`/`below`."""

    name: str
    type: str
    default: Any
    group: str
    help: str
    unit: str = ""
    min: float | None = None
    max: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    hashed: bool = True

    @property
    def allowed(self) -> str:
        """The range or the choices as text; empty where every value of the type will do."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        bounds = (
            ("at least", self.min),
            ("above", self.above),
            ("at most", self.max),
            ("below", self.below),
        )
        return " and ".join(f"{label} {bound:g}" for label, bound in bounds if bound is not None)


def _f(default: Any, group: str, help: str, **more: Any) -> Any:
    metadata = {"group": group, "help": help, **more}
    if isinstance(default, list | dict):
        return field(default_factory=default.copy, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class MLXGRPOConfig:
    """One training run. Flat; `extra` holds tags, which nothing in training reads."""

    # --- model
    model_name: str = _f(
        "Qwen/Qwen2.5-1.5B-Instruct",
        "model",
        "local folder, hub repository, builtin/tiny or builtin/smollm2",
    )
    model_revision: str = _f(
        "", "model", "branch, tag or commit of a hub model; empty: its default"
    )
    trust_remote_code: bool = _f(False, "model", "let a model folder run its own Python code")
    train_type: str = _f("lora", "model", "what is trained", choices=("lora", "dora", "full"))
    lora_rank: int = _f(16, "model", "rank of the adapters", min=1)
    lora_scale: float = _f(2.0, "model", "factor on the adapters' output (mlx-lm's scale)", above=0)
    lora_dropout: float = _f(0.0, "model", "dropout on the adapters' input", min=0, below=1)
    lora_layers: int = _f(
        -1, "model", "blocks that get adapters, counted from the last; -1: all", min=-1
    )
    lora_keys: list[str] = _f(
        [],
        "model",
        "layer names within a block that get adapters; empty: every linear layer but routers",
    )
    adapter_path: str = _f(
        "",
        "model",
        "start from these adapters (a folder written by mlx-lm); with them on is the reference",
    )
    dtype: str = _f(
        "auto",
        "model",
        "of the weights; auto: as they are stored, on the CPU float32 without quantisation",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    quantize_for_rollouts: bool = _f(
        True, "model", "quantise the frozen base to 4 bits at load; off with train_type full"
    )

    # --- data
    dataset: str = _f(
        "openai/gsm8k",
        "data",
        "hub repository, .jsonl or .parquet file, folder of the library datasets, "
        "builtin/arithmetic or builtin/counting",
    )
    dataset_config: str = _f(
        "", "data", "configuration of a hub data set; empty: main for gsm8k, else its default"
    )
    dataset_split: str = _f("train", "data", "split to train on")
    eval_dataset: str = _f(
        "", "data", "file or repository with held-out rows; empty: the test split or rows by hash"
    )
    eval_split: str = _f("test", "data", "split to evaluate on")
    eval_part: str = _f(
        "test",
        "data",
        "held-out rows to evaluate on: those that a sweep selects by, or those it never sees",
        choices=("test", "confirm"),
    )
    prompt_key: str = _f(
        "question", "data", "column of the prompt: text or chat messages; a.b is a nested one"
    )
    answer_key: str = _f(
        "answer",
        "data",
        "column of the reference answer; a.b is a nested one; empty: the rows have none",
    )
    system_key: str = _f(
        "", "data", "column of a row's own system message; empty: system_prompt for all"
    )
    system_prompt: str = _f(SYSTEM_PROMPT, "data", "system message; empty: none")
    assistant_prefix: str = _f(
        "<reasoning>", "data", "start of every answer, in training, evaluation and reward text"
    )
    chat_template_kwargs: dict[str, Any] = _f(
        {}, "data", "table of what the chat template reads, such as {enable_thinking = false}"
    )
    max_train_samples: int = _f(
        0, "data", "rows to train on, the same in every epoch; 0: all", unit="rows", min=0
    )
    max_prompt_length: int = _f(
        512, "data", "longer prompts are dropped and counted", unit="tokens", min=1
    )
    shuffle: bool = _f(True, "data", "draw a new order of the rows every epoch, keyed by the seed")

    # --- reward
    rewards: list[str] = _f(
        list(DEFAULT_REWARDS),
        "reward",
        "built-in names, file.py:function or package.module:function; their weighted sum counts",
    )
    reward_weights: list[float] = _f(
        [], "reward", "one weight for each reward; empty: all 1; 0: a metric that is only logged"
    )
    reward_on_error: str = _f(
        "fail",
        "reward",
        "a reward that raises, hangs or returns NaN: end the run, or count as missing",
        choices=("fail", "nan"),
    )
    reward_timeout_s: float = _f(30.0, "reward", "time for one reward call", unit="s", above=0)
    reward_load_timeout_s: float = _f(
        600.0,
        "reward",
        "time for a reward's file to be imported, with the models that it loads",
        unit="s",
        above=0,
        hashed=False,
    )
    completion_format: str = _f(
        "text",
        "reward",
        "how your own rewards get completions and prompts: as texts, or as chat messages "
        "(completion[0]['content'], as TRL)",
        choices=("text", "messages"),
    )
    overlong_buffer: int = _f(
        0, "reward", "last tokens before the limit that cost reward (DAPO)", unit="tokens", min=0
    )
    overlong_penalty: float = _f(1.0, "reward", "cost at the limit itself (DAPO)", min=0)

    # --- sampling
    num_generations: int = _f(64, "sampling", "completions for each prompt (group size)", min=2)
    num_train_generations: int = _f(
        0,
        "sampling",
        "completions of each group to learn from, those whose rewards vary the most (PODS); 0: all",
        min=0,
    )
    early_group_size: int = _f(
        0,
        "sampling",
        "completions of each group that are drawn first; the others only where rewards of these "
        "differ, else the group counts as flat; 0: all at once",
        min=0,
    )
    max_completion_length: int = _f(
        1024,
        "sampling",
        "limit of a completion; the smaller of the two counts",
        unit="tokens",
        min=1,
    )
    max_new_tokens: int = _f(
        512,
        "sampling",
        "limit of a completion; the smaller of the two counts",
        unit="tokens",
        min=1,
    )
    temperature: float = _f(0.7, "sampling", "of sampling and of the log-probs", above=0)
    top_p: float = _f(1.0, "sampling", "nucleus; 1: off", above=0, max=1)
    top_k: int = _f(0, "sampling", "best tokens kept; 0: off", unit="tokens", min=0)
    min_p: float = _f(
        0.0, "sampling", "least share of the best token's probability; 0: off", min=0, below=1
    )
    repetition_penalty: float = _f(
        1.0,
        "sampling",
        "divides the logits (multiplies those below 0) of tokens that prompt or completion hold "
        "so far; 1: off",
        above=0,
    )
    stop: list[str] = _f(
        [], "sampling", "texts that end a completion, such as </answer>; special tokens, too"
    )
    stop_at_turn_end: bool = _f(
        True, "sampling", "the token with which the chat template closes a turn ends a completion"
    )

    # --- objective
    loss_type: str = _f(
        "dapo",
        "objective",
        "how token terms are made and averaged",
        choices=(
            *("grpo", "bnpo", "dr_grpo", "dapo", "cispo", "gspo", "sapo", "rloo", "luspo", "vespo"),
        ),
    )
    importance_sampling_level: str = _f(
        "auto",
        "objective",
        "ratio for each token or one for each sequence; auto: what the paper of its loss_type has",
        choices=("auto", "token", "sequence"),
    )
    scale_rewards: str = _f(
        "auto",
        "objective",
        "deviation that divides the advantage; auto: none for dr_grpo and rloo, else group",
        choices=("auto", "group", "batch", "none"),
    )
    multi_objective_aggregation: str = _f(
        "sum_then_normalize",
        "objective",
        "several rewards: normalise their weighted sum, or each by itself and sum (GDPO)",
        choices=("sum_then_normalize", "normalize_then_sum"),
    )
    clip_eps: float = _f(0.2, "objective", "lower width of the ratio's clip range", above=0)
    clip_eps_high: float = _f(0.0, "objective", "upper width; 0: the same as clip_eps", min=0)
    clip_delta: float = _f(0.0, "objective", "cap of the ratio on both sides; 0: off", min=0)
    kl_coeff: float = _f(
        0.0, "objective", "weight of the KL term against the policy at the start; 0: none", min=0
    )
    sync_ref_model: bool = _f(
        False,
        "objective",
        "move what the KL term is against towards the policy from time to time (TR-DPO)",
    )
    ref_model_mixup_alpha: float = _f(
        0.6, "objective", "share of the policy in the new reference", above=0, max=1
    )
    ref_model_sync_steps: int = _f(512, "objective", "updates between two such moves", min=1)
    kl_estimator: str = _f(
        "k3", "objective", "estimator of the KL divergence", choices=("k1", "k2", "k3")
    )
    off_policy_mask_threshold: float = _f(
        0.0,
        "objective",
        "bad completions that have become rarer than this on average leave the loss; 0: off",
        unit="nats a token",
        min=0,
    )
    num_iterations: int = _f(1, "objective", "updates from each batch of rollouts", min=1)
    old_logprobs: str = _f(
        "recomputed",
        "objective",
        "what later updates from a batch of rollouts compare with: log-probs computed once more "
        "before the first of them, or those that were there when the tokens were sampled",
        choices=("recomputed", "sampled"),
    )
    mask_truncated: bool = _f(
        False, "objective", "leave completions that hit the limit out of the loss"
    )
    entropy_coef: float = _f(0.0, "objective", "weight of the entropy bonus", min=0)
    top_entropy_quantile: float = _f(
        1.0, "objective", "share of tokens, by entropy, that learn; 1: all", above=0, max=1
    )
    zero_variance: str = _f(
        "skip",
        "objective",
        "groups whose rewards are all equal: run them, save their cost (they stay in the loss's "
        "means), draw them again, or draw other prompts in their place (DAPO)",
        choices=("keep", "skip", "resample", "refill"),
    )
    resample_rounds: int = _f(
        2, "objective", "further draws in the place of such groups, at most", min=1
    )
    flat_prompt_chance: float = _f(
        1.0,
        "objective",
        "chance that a prompt whose last group was flat is drawn when its turn comes, to the power "
        "of how many in a row were; another prompt takes its place (GRESO); 1: off",
        above=0,
        max=1,
    )
    rollout_is: str = _f(
        "none",
        "objective",
        "weights where sampling differs from the policy (top_p, top_k, min_p, repetition_penalty)",
        choices=("none", "token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
    )
    rollout_is_max: float = _f(2.0, "objective", "bound of those weights", above=0)

    # --- optimizer
    learning_rate: float = _f(
        1e-6, "optimizer", "peak rate; LoRA wants about ten times that of full", min=0
    )
    lr_scheduler_type: str = _f(
        "cosine",
        "optimizer",
        "shape of the rate over the updates",
        choices=("cosine", "linear", "constant", "constant_with_warmup"),
    )
    warmup_ratio: float = _f(0.1, "optimizer", "share of the updates that warm up", min=0, max=1)
    adam_beta1: float = _f(0.9, "optimizer", "decay of Adam's first moment", min=0, below=1)
    adam_beta2: float = _f(0.999, "optimizer", "decay of Adam's second moment", min=0, below=1)
    adam_eps: float = _f(1e-8, "optimizer", "Adam's epsilon", above=0)
    weight_decay: float = _f(0.0, "optimizer", "decoupled decay (AdamW)", min=0)
    max_grad_norm: float = _f(0.1, "optimizer", "clip of the global gradient norm; 0: off", min=0)
    batch_size: int = _f(1, "optimizer", "prompts in each micro-step", unit="prompts", min=1)
    gradient_accumulation_steps: int = _f(4, "optimizer", "micro-steps in each update", min=1)
    steps_per_generation: int = _f(
        0,
        "optimizer",
        "micro-steps whose prompts are drawn for together, each learnt from in turn; 0: as many as "
        "in an update",
        min=0,
    )
    num_epochs: int = _f(1, "optimizer", "passes over the rows", min=1)
    seed: int = _f(0, "optimizer", "of every draw: rows, adapters, tokens", min=0, max=2**63 - 1)

    # --- evaluation
    eval_steps: int = _f(50, "evaluation", "score held-out rows every N batch steps; 0: off", min=0)
    eval_samples: int = _f(200, "evaluation", "held-out rows", unit="rows", min=0)
    eval_every_updates: int = _f(
        25, "evaluation", "score training rows every N updates; 0: off", min=0
    )
    eval_subset_size: int = _f(200, "evaluation", "training rows", unit="rows", min=0)
    eval_max_new_tokens: int = _f(128, "evaluation", "limit of an answer", unit="tokens", min=1)
    eval_at_start: bool = _f(True, "evaluation", "evaluate before the first update")
    eval_at_end: bool = _f(True, "evaluation", "evaluate after the last update")
    eval_num_generations: int = _f(1, "evaluation", "answers for each row (k of pass@k)", min=1)
    eval_rewards: list[str] = _f(
        [],
        "evaluation",
        "what held-out rows are scored by, named as rewards are, where that should differ from "
        "training; empty: the rewards",
    )
    eval_reward_weights: list[float] = _f(
        [], "evaluation", "one weight for each of eval_rewards; empty: all 1"
    )
    metric_for_best_model: str = _f(
        "auto",
        "evaluation",
        "held-out score that the best checkpoint and a sweep go by; auto: em where rows have "
        "reference answers, else eval_reward",
        choices=("auto", "em", "eval_reward"),
    )
    eval_temperature: float = _f(0.0, "evaluation", "0: greedy", min=0)

    # --- output
    output_dir: str = _f(
        "outputs/Qwen-1.5B-MLX-GRPO", "output", "everything that the run writes", hashed=False
    )
    run_name: str = _f(
        "Qwen-1.5B-MLX-GRPO-gsm8k", "output", "the run's name in lists", hashed=False
    )
    logging_steps: int = _f(1, "output", "updates between log lines", min=1, hashed=False)
    log_jsonl: bool = _f(True, "output", "write training_log.jsonl", hashed=False)
    log_completions: int = _f(
        2, "output", "completions kept with each log line, in samples.jsonl", min=0, hashed=False
    )
    save_steps: int = _f(100, "output", "updates between checkpoints; 0: off", min=0)
    save_every_s: float = _f(600.0, "output", "time between checkpoints; 0: off", unit="s", min=0)
    save_total_limit: int = _f(2, "output", "newest checkpoints kept; 0: all", min=0)
    save_best: bool = _f(True, "output", "keep the checkpoint with the best held-out score as well")
    verbose: bool = _f(False, "output", "say more on stderr", hashed=False)
    debug: bool = _f(
        False, "output", "show tracebacks and how each value was resolved", hashed=False
    )
    dry_run: bool = _f(False, "output", "resolve, check and estimate; train nothing", hashed=False)

    # --- memory
    micro_batch_size: int = _f(
        0,
        "memory",
        "completions in each backward pass; 0: from the memory there is",
        min=0,
        hashed=False,
    )
    logprob_chunk_tokens: int = _f(
        0,
        "memory",
        "tokens in each pass of the vocabulary head; 0: auto",
        unit="tokens",
        min=0,
        hashed=False,
    )
    grad_checkpoint: str = _f(
        "auto",
        "memory",
        "recompute activations in the backward pass",
        choices=("auto", "on", "off"),
        hashed=False,
    )
    prefix_sharing: bool = _f(
        True, "memory", "run each prompt once for its whole group, in the update too", hashed=False
    )
    use_compile: bool = _f(
        True, "memory", "compile the update's inner parts (on a GPU)", hashed=False
    )
    memory_limit_gb: float = _f(
        0.0,
        "memory",
        "MLX's limit; 0: 85% of what the device advises, 70% below 24 GB",
        unit="GB",
        min=0,
        hashed=False,
    )
    cache_limit_gb: float = _f(
        -1.0,
        "memory",
        "MLX's buffer cache; -1: a tenth of what the device advises, 0.5 to 8",
        unit="GB",
        min=-1,
        hashed=False,
    )

    # --- health
    max_bad_updates: int = _f(
        3, "health", "skipped non-finite updates in a row that end the run", min=1
    )
    abort_inactive_window: int = _f(
        0, "health", "updates in a row without any signal that end the run; 0: off", min=0
    )

    extra: dict[str, Any] = field(default_factory=dict, metadata={"group": ""})

    @property
    def held_out_score(self) -> str:
        """The key of the log that the best checkpoint goes by, and a sweep unless it says more."""
        if self.metric_for_best_model != "auto":
            return self.metric_for_best_model
        return "em" if self.answer_key else "eval_reward"

    @property
    def updates_per_generation(self) -> int:
        """The minibatches of a batch of rollouts: one update each in every iteration."""
        return max(1, self.steps_per_generation // self.gradient_accumulation_steps)

    @property
    def completion_limit(self) -> int:
        """The most tokens that a completion may have in training."""
        return min(self.max_new_tokens, self.max_completion_length)


def _info(f: Any) -> FieldInfo:
    default = f.default if f.default is not MISSING else f.default_factory()
    kind = f.type if isinstance(f.type, str) else getattr(f.type, "__name__", str(f.type))
    if isinstance(default, dict):
        kind = "table"
    elif "[" in str(f.type):
        kind = str(f.type)
    return FieldInfo(name=f.name, type=kind, default=default, **f.metadata)


FIELDS: dict[str, FieldInfo] = {
    f.name: _info(f) for f in fields(MLXGRPOConfig) if f.name != "extra"
}
