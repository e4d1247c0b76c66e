"""One run from its claimed folder to result.json: data, GPU lock, model, training, verdict.

The updates themselves are in `training_loop.py`.
"""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from grpo_core.blas.library import find as find_blas
from grpo_core.blas.session import current as current_blas
from grpo_core.blas.session import install, use_threads
from grpo_core.config import MLXGRPOConfig, config_hash
from grpo_core.data.prompts import Prompt
from grpo_core.data.splits import Data, load_data
from grpo_core.errors import (
    ConfigError,
    DataError,
    ExitCode,
    GRPOError,
    Interrupted,
    RewardError,
)
from grpo_core.model.base_model import load_tokenizer_of
from grpo_core.model.device import apply_limits, device_name
from grpo_core.model.policy import Policy, load_policy
from grpo_core.model.tables import must_fit_tables
from grpo_core.rewards.builtin import Rewards, load_eval_rewards, load_rewards
from grpo_core.run import checkpoint
from grpo_core.run.checkpoint import Checkpoint, RunState, nothing_learnt
from grpo_core.run.console import Console
from grpo_core.run.device_choice import ENV_DEVICE
from grpo_core.run.exceptions import explain
from grpo_core.run.folder import RunFolder, versions
from grpo_core.run.locks import gpu_lock
from grpo_core.run.logs import Result
from grpo_core.run.protocol import COMPLETED, FAILED
from grpo_core.run.signals import StopFlag
from grpo_core.run.stopwatch import Stopwatch
from grpo_core.training_loop import TrainingLoop

# Among the versions that a checkpoint records.
BLAS = "blas"
BASE = "base model"
DEVICE = "device"
"""Names of what a checkpoint records beside packages: what multiplied, how the base is held, and
what computed."""


def prepare_data(cfg: MLXGRPOConfig) -> Data:
    """What a run learns from, tokenised; made without the GPU, and without the run's folder.

    Rewards are left out: a user's may bring a model along. Raises DataError or ModelError.
    """
    return load_data(cfg, load_tokenizer_of(cfg))


def train(
    folder: RunFolder,
    stop: StopFlag,
    strict: bool = False,
    wait: bool = True,
    data: Data | None = None,
) -> None:
    """Train in a claimed folder, going on where it stopped; result.json says how it ended.

    `strict` refuses to go on where bits would differ. `data` is that of a standby.
    Raises an error of our tree for every end but the good one. Anything else is a bug.
    """
    cfg, state, console = folder.cfg, RunState(), Console(folder.cfg)
    watch = Stopwatch(state)
    with _verdict(folder, state, watch, console), ExitStack() as stack:
        install(find_blas())
        with stop.at_once():
            found = checkpoint.newest(folder.path, console.line)
            with console.busy("loading the data", cfg.dataset):
                rewards = stack.enter_context(load_rewards(cfg))
                # Without scorers of their own, held-out rows are scored as training is.
                scorers = (
                    stack.enter_context(load_eval_rewards(cfg)) if cfg.eval_rewards else rewards
                )
                data = data or prepare_data(cfg)
                _must_fit_rows(data, rewards, scorers, cfg)
        _adopt(found, state, data, console, strict)
        watch.lap()
        try:
            stack.enter_context(gpu_lock(f"{cfg.run_name} in {cfg.output_dir}", stop, wait))
        finally:
            watch.skip()
        with stop.at_once():
            apply_limits(cfg)
            with console.busy(f"loading {cfg.model_name}", cfg.model_name):
                policy = load_policy(cfg)
            _must_fit(policy, data, cfg)
        _adopt_base(found, state, policy, console, strict)
        for note in policy.notes:
            console.line(note)
        state.threads = use_threads(state.threads, policy.parameter_count, console.line)
        # What is loaded stays to the end: the collector need not walk through it again and again.
        gc.freeze()
        gc.enable()
        loop = TrainingLoop(folder, state, data, rewards, scorers, policy, stop, watch, console)
        loop.run(found)
        watch.lap()
        _result(folder, state, watch, None).write(folder.path)
        console.completed(state, folder.path)


def _adopt(
    found: Checkpoint | None, state: RunState, data: Data, console: Console, strict: bool
) -> None:
    """Take over a checkpoint's state; DataError if it was trained on other rows.

    ConfigError if strict, and on another device or by another BLAS: the run would end with other
    bits.
    """
    now = _versions()
    for note in data.notes:
        console.line(f"[data] {note}")
    if found is not None:
        if found.state.fingerprint != data.fingerprint:
            raise DataError(
                f"{found.path}: trained on other rows than the data set has now; put them back, "
                "or choose another output_dir"
            )
        if strict:
            must_be_same_device(found, now[DEVICE])
            _must_be_same_blas(found, now)
        console.resumed(found.path, found.state, now)
        for name in RunState.__slots__:
            setattr(state, name, getattr(found.state, name))
    state.fingerprint = data.fingerprint
    state.versions = {BASE: state.versions[BASE], **now} if BASE in state.versions else now


def _adopt_base(
    found: Checkpoint | None, state: RunState, policy: Policy, console: Console, strict: bool
) -> None:
    """Report a base that is held in other numbers than before; ConfigError if strict.

    `dtype = "auto"` takes what suits the device, so a run that goes on elsewhere may meet another.
    """
    before = state.versions.get(BASE)
    if found is not None and before not in (None, policy.held_as):
        if strict:
            raise ConfigError(
                f"{found.path}: trained on a base in {before}, and here it would be "
                f"{policy.held_as}; set dtype and quantize_for_rollouts as it was in a folder of "
                "its own, go on where it began, or go on without --strict"
            )
        console.line(f"[resume] {BASE} was {before}, is {policy.held_as}: results will differ")
    state.versions[BASE] = policy.held_as


def _must_fit_rows(data: Data, rewards: Rewards, scorers: Rewards, cfg: MLXGRPOConfig) -> None:
    """RewardError where a plug-in wants a column, or reference answers, that rows do not have."""
    rewards.check(data.train[0].example)
    for prompt in _evaluated(data, cfg, 1):
        try:
            scorers.check(prompt.example)
        except RewardError as error:
            raise RewardError(
                f"held-out rows: {error}; eval_rewards names what they are scored by instead"
            ) from None


def _evaluated(data: Data, cfg: MLXGRPOConfig, most: int | None = None) -> list[Prompt]:
    """The prompts of the splits that are evaluated, at most so many of each."""
    test = data.test if cfg.eval_steps else []
    train = data.train_eval if cfg.eval_every_updates else []
    return [*test[:most], *train[:most]]


def _must_fit(policy: Policy, data: Data, cfg: MLXGRPOConfig) -> None:
    """ModelError where ids or positions lie beyond the model's tables."""
    train = [prompt.ids for prompt in data.train]
    must_fit_tables(policy.model, train, cfg.completion_limit, "max_new_tokens")
    held_out = [prompt.ids for prompt in _evaluated(data, cfg)]
    must_fit_tables(policy.model, held_out, cfg.eval_max_new_tokens, "eval_max_new_tokens")


def _versions() -> dict[str, str]:
    """Of packages, of the device, and of what multiplies matrices on the CPU."""
    blas = current_blas().version
    return versions() | {DEVICE: device_name()} | ({BLAS: blas} if blas else {})


def must_be_same_device(found: Checkpoint, now: str) -> None:
    """ConfigError where a run would go on on a CPU instead of a GPU, or the other way round.

    One of them is not what was meant, and their bits differ by more than those of two GPUs.
    """
    before = found.state.versions.get(DEVICE, now)
    if (kind := before.split()[0]) != now.split()[0]:
        raise ConfigError(
            f"{found.path}: trained on the {before}, and now it would be the {now}; set "
            f"{ENV_DEVICE}={kind}, go on without --strict, or choose another output_dir"
        )


def _must_be_same_blas(found: Checkpoint, now: dict[str, str]) -> None:
    before = found.state.versions.get(BLAS)
    if before is None or BLAS not in now or now[BLAS] == before:
        return
    raise ConfigError(
        f"{found.path}: trained with {before}, and now it would be {now[BLAS]}, which gives other "
        "bits; install that version again (on another processor OPENBLAS_CORETYPE may choose the "
        "kernels, GRPO_BLAS the library), go on without --strict, or choose another output_dir"
    )


@contextmanager
def _verdict(
    folder: RunFolder, state: RunState, watch: Stopwatch, console: Console
) -> Iterator[None]:
    """Whatever goes wrong within gets its result.json, and becomes an error of our tree."""
    try:
        yield
    # A crash leaves its verdict too; what we cannot explain goes on as it is, traceback and all.
    except Exception as error:
        known = explain(error, folder.cfg)
        watch.lap()
        try:
            if folder.in_place:
                _result(folder, state, watch, known or error).write(folder.path)
        except OSError as unwritten:
            console.line(f"[run] result.json could not be written: {unwritten.strerror}")
        if known is None or known is error:
            raise
        raise known from error


def _result(
    folder: RunFolder, state: RunState, watch: Stopwatch, error: Exception | None
) -> Result:
    """The verdict; None is the good end."""
    status, code, reason = COMPLETED, ExitCode.COMPLETED, nothing_learnt(state)
    if isinstance(error, GRPOError):
        status = "interrupted" if isinstance(error, Interrupted) else FAILED
        code, reason = error.exit_code, str(error)
    elif error is not None:
        status, code, reason = FAILED, ExitCode.CRASH, f"{type(error).__name__}: {error}"
    return Result(
        status=status,
        exit_code=code,
        reason=reason,
        final={"update": state.update, **state.last},
        best=state.best,
        updates=state.update,
        tokens=state.tokens,
        wall_s=state.wall_s,
        attempt_s=watch.attempt_s,
        peak_bytes=state.peak_bytes,
        config_hash=config_hash(folder.cfg),
        device=device_name(),
        blas=current_blas().version,
        threads=state.threads,
    )
