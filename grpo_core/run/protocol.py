"""What trainer and orchestrator must agree on: file names, the standby's messages, texts of faults.

Each is written here once, for both packages; nothing heavy is loaded. Exit codes are in `errors`,
the fields of a configuration in `config`.
"""

import re
from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path

from grpo_core.run.atomic import REPLACED, SET_ASIDE, TEMPORARY, read_json

# --- the files in a run's output folder

CONFIG_FILE = "config.resolved.json"
LOG_FILE = "training_log.jsonl"
SAMPLES_FILE = "samples.jsonl"
RESULT_FILE = "result.json"
FINAL_FOLDER = "final"
LOCK_FILE = ".lock"
TRAINER_STATE = "trainer_state.json"
"""In a checkpoint: where the run stood."""
MANIFEST = "manifest.json"
"""Lists the files of a folder of weights, each with its size and its sum."""

COMPLETED = "completed"
"""The status in the result.json of a run that has nothing left to do."""
FAILED = "failed"

INTERVALS = {"em": "ci95", "eval_reward": "eval_reward_ci95"}
"""The scores of held-out rows by their keys in the log, each with the key of its 95% interval."""


def score_text(metric: str, value: float | None) -> str:
    """A held-out score as people read it everywhere: exact match as `31.7%`."""
    if value is None:
        return "-"
    return f"{value:.1%}" if metric == "em" else f"{value:.3f}"


_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


def checkpoint_name(update: int) -> str:
    """The folder of the checkpoint after that update."""
    return f"checkpoint-{update}"


def checkpoints(output_dir: Path) -> list[tuple[int, Path]]:
    """The checkpoints as (update, folder), newest first; half-made ones have another name.

    Empty where the folder is not there; OSError where it cannot be listed.
    """
    try:
        found = [(_CHECKPOINT.fullmatch(path.name), path) for path in output_dir.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    named = [(int(m[1]), path) for m, path in found if m and path.is_dir()]
    return sorted(named, reverse=True)


def learnt_nothing(output_dir: Path) -> bool:
    """Whether a run has failed here before its first update: then another may take the folder."""
    result = read_json(output_dir / RESULT_FILE) or {}
    if result.get("status") != FAILED or result.get("updates") != 0:
        return False
    return not (checkpoints(output_dir) or (output_dir / FINAL_FOLDER).exists())


RUN_FILES = frozenset({CONFIG_FILE, LOG_FILE, SAMPLES_FILE, RESULT_FILE, LOCK_FILE})
"""All files that a trainer leaves in an output folder, beside its folders of weights."""

_WEIGHTS = re.compile(
    r"(model|adapters|optimizer)(-\d+-of-\d+)?\.safetensors"
    r"|model\.safetensors\.index\.json"
    r"|(config|generation_config|adapter_config|(pre)?processor_config)\.json"
    r"|(tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab|chat_template)\.json"
    r"|chat_template\.jinja|tokenizer\.model|merges\.txt|vocab\.txt|README\.md"
    r"|(manifest|trainer_state|rollouts)\.json"
)


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is half made, about to be replaced, or set aside."""
    return name.startswith((TEMPORARY, REPLACED, SET_ASIDE))


def is_weights_folder(name: str) -> bool:
    """Whether a trainer makes a folder of that name in an output folder, whole or half made."""
    for prefix in (TEMPORARY, REPLACED, SET_ASIDE):
        name = name.removeprefix(prefix)
    return name == FINAL_FOLDER or _CHECKPOINT.fullmatch(name) is not None


def is_weights_file(name: str) -> bool:
    """Whether a trainer, mlx-lm or a tokenizer writes a file of that name into such a folder."""
    return _WEIGHTS.fullmatch(name) is not None


# --- a trainer that prepares itself and waits for its turn

PREWARM = "--prewarm"
"""The option that makes a trainer a standby."""

GO = b"go\n"
"""Its turn, on its stdin. The end of stdin dismisses it."""

# --- what a run was made with

PACKAGES = ("grpo-sweep", "mlx", "mlx-lm", "transformers", "tokenizers", "datasets", "numpy")


def package_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """The versions of Python and of the packages that are installed, by name."""
    # Both cost what `grpo-sweep status` should not pay.
    import platform
    from importlib import metadata

    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# --- what the worker tells a trainer

ENV_HALVINGS = "GRPO_MICRO_BATCH_HALVINGS"
"""How often to halve the micro-batch: so many attempts before this one were killed for memory."""


# --- texts of the device and the disk


class MachineFault(Enum):
    """What the machine can do to a run."""

    GPU_HANG = auto()
    """The GPU is hung; only a restart of the machine helps."""
    GPU_WATCHDOG = auto()
    """A command kept the display waiting, or took so long, that the system ended it."""
    GPU_RESET = auto()
    """The GPU was reset for another command, maybe another program's; it works again."""
    GPU_BUFFERS = auto()
    """More buffers were alive than Metal allows, of whatever size; a new process has none."""
    MEMORY = auto()
    DISK = auto()
    GPU = auto()
    """Any other fault of the GPU."""


# What MLX 0.32 on Metal, CUDA and CPU, the system's allocators and Metal's command buffers say, in
# small letters. In this order: a hang is also said to be a failed command, and the limit of buffers
# comes from the allocator.
_TEXTS: dict[MachineFault, tuple[str, ...]] = {
    MachineFault.GPU_HANG: (
        "callbackerrorhang",
        "gpu hang",
    ),
    MachineFault.GPU_WATCHDOG: (
        "impactinginteractivity",
        "callbackerrortimeout",
        "gpu timeout",
        "launch timed",
        "cudaerrorlaunchtimeout",
    ),
    MachineFault.GPU_RESET: (
        "innocentvictim",
        "innocent victim",
        "victim of gpu error",
        "submissionsignored",
        "prior/excessive gpu errors",
    ),
    MachineFault.GPU_BUFFERS: ("resource limit (",),
    MachineFault.MEMORY: (
        "insufficient memory",
        "erroroutofmemory",
        "[metal::malloc]",
        "attempting to allocate",
        "out of memory",
        "memoryerror",
        "std::bad_alloc",
        "unable to allocate",
        "cudaerrormemoryallocation",
    ),
    MachineFault.DISK: (
        # MLX's own writer of files, which gives no errno.
        "[write] unable to write",
        "no space left on device",
        "disk quota exceeded",
    ),
    MachineFault.GPU: (
        "kiogpucommandbuffercallbackerror",
        "command buffer execution failed",
        "cudaerrorlaunchfailure",
        "unspecified launch failure",
        "illegal memory access",
    ),
}


def machine_fault(text: str) -> MachineFault | None:
    """The fault that an exception's message or a line of a log reports; None if it reports none."""
    low = text.lower()
    return next((f for f, texts in _TEXTS.items() if any(known in low for known in texts)), None)
