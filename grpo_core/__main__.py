"""`mlx-grpo`: argv -> config -> trainer; an error becomes one message and its exit code.

mlx is imported after the configuration has been found good, so a typo costs no seconds.
"""

import argparse
import atexit
import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

from grpo_core import __version__
from grpo_core.blas.library import find as find_blas
from grpo_core.blas.threads import most_threads
from grpo_core.config import (
    DEFAULT_CONFIG,
    ENV_CONFIG,
    FIELDS,
    MLXGRPOConfig,
    advice,
    config_path,
    format_override,
    load_toml_config,
    resolve_config,
    set_field,
)
from grpo_core.config.help import fields_help
from grpo_core.errors import ConfigError, ExitCode, GRPOError
from grpo_core.run.device_choice import wanted_device
from grpo_core.run.folder import RunFolder, claim_folder
from grpo_core.run.macos import relax_watchdog, stay_awake
from grpo_core.run.protocol import PREWARM, score_text
from grpo_core.run.signals import StopFlag
from grpo_core.run.standby import StandbyInput
from grpo_core.run.surroundings import missing_folder, open_files_kept, settle_streams
from grpo_core.terminal import tell, visible

if TYPE_CHECKING:
    from grpo_core.data.splits import Data

_EPILOG = f"""\
The file is --config, else ${ENV_CONFIG}, else {DEFAULT_CONFIG}. Each --set goes over it, in order:

  mlx-grpo --config configs/default.toml --set learning_rate=5e-7 --set num_generations=32

Exit codes: {ExitCode.COMPLETED} completed, {ExitCode.CONFIG} config, {ExitCode.DATA} data, \
model or reward, {ExitCode.OUT_OF_MEMORY} out of memory, {ExitCode.GPU_FAULT} GPU fault,
{ExitCode.DIVERGED} diverged, {ExitCode.DISK_FULL} disk full, {ExitCode.HUB_AWAY} hub away,
{ExitCode.INTERRUPTED} interrupted (the same command goes on).

Fields, each with its default:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer's command line; returns the exit code."""
    args = make_parser().parse_args(argv)
    stop = StopFlag().install()
    standby = StandbyInput() if args.prewarm else None
    debug = False
    try:
        if gone := missing_folder():  # No relative path means anything then.
            raise ConfigError(gone)
        cfg = resolve_config(args.config, args.set, args.strict)
        debug = cfg.debug
        if debug:
            _explain_values(args.config, args.set, cfg)
        for line in advice(cfg):
            tell(f"[note] {line}")
        # What is wrong in the environment is reported before a folder is claimed.
        find_blas()
        most_threads()
        wanted_device()
        if (relaxed := relax_watchdog(os.environ)) is not None:
            tell(relaxed)
        if args.dry_run or cfg.dry_run:
            _dry_run(cfg, args.strict)
        else:
            data = _prepare(cfg, standby, stop) if standby else None
            _train(cfg, args.strict, stop, not args.no_wait, data)
    except GRPOError as error:
        if debug:
            traceback.print_exc()
        tell(f"error: {error}")
        return error.exit_code
    return ExitCode.COMPLETED


def make_parser() -> argparse.ArgumentParser:
    """The command line of the trainer."""
    parser = argparse.ArgumentParser(
        prog="mlx-grpo",
        description="Trains one GRPO run on MLX.",
        epilog=_EPILOG + fields_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", metavar="FILE", help="TOML file with the run's fields")
    add("--set", metavar="KEY=VALUE", action="append", default=[], help="override a field")
    add("--strict", action="store_true", help="every warning of the configuration is an error")
    add("--no-wait", action="store_true", help="exit 75 where the GPU or the folder is in use")
    add(PREWARM, action="store_true", help="prepare, then wait for a line `go` on stdin")
    add("--dry-run", action="store_true", help="resolve, check and estimate; train nothing")
    add("--version", action="version", version=f"mlx-grpo {__version__}")
    return parser


def _prepare(cfg: MLXGRPOConfig, standby: StandbyInput, stop: StopFlag) -> "Data | None":
    """Do as a standby what needs neither GPU nor folder, then wait; None where that failed."""
    trainer = _computing("grpo_core.trainer")
    data = None
    with stop.at_once():
        # Whatever goes wrong, the run meets it again when its turn has come, and reports it then.
        with contextlib.suppress(Exception):
            data = trainer.prepare_data(cfg)
        standby.wait_for_turn()
    return data


def _train(
    cfg: MLXGRPOConfig, strict: bool, stop: StopFlag, wait: bool, data: "Data | None"
) -> None:
    folder = claim_folder(cfg, strict, stop.wait, wait)
    if folder.lock is None:
        tell(_completed_message(folder))
        return
    with folder.lock:
        trainer = _computing("grpo_core.trainer")
        _keep_awake()
        trainer.train(folder, stop, strict, wait, data)


def _keep_awake() -> None:
    """Until this process ends, sweep or not."""
    try:
        stay_awake(os.getpid())
    except OSError as e:
        tell(f"[note] the machine may go to sleep: {e.filename}: {e.strerror}")


def _computing(name: str) -> ModuleType:
    """A module that computes, once it is settled on which device; late, for all that it loads."""
    with open_files_kept():
        found = import_module(name)
        import_module("grpo_core.model.device").use_device(tell)
    return found


def _completed_message(folder: RunFolder) -> str:
    result = folder.result
    metric = folder.cfg.held_out_score
    value = result.get("final", {}).get(metric)
    score = f", {metric} {score_text(metric, value)}" if isinstance(value, float) else ""
    return (
        f"[run] {folder.path} is completed ({result.get('updates')} updates{score}); "
        "nothing to do. Another output_dir trains again"
    )


def _dry_run(cfg: MLXGRPOConfig, strict: bool) -> None:
    dry_run = _computing("grpo_core.dry_run")
    try:
        for line in dry_run.describe(cfg, strict):
            print(visible(line), flush=True)
    except BrokenPipeError:
        # The reader (`| head`) has seen enough; what is still buffered must go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain_values(config: str | None, overrides: Sequence[str], cfg: MLXGRPOConfig) -> None:
    """Where each value that is not the default came from."""
    path = config_path(config)
    try:
        in_file = set(load_toml_config(path))
    except GRPOError:
        in_file = set()
    in_set = {set_field(item) for item in overrides}
    for name, info in FIELDS.items():
        value = getattr(cfg, name)
        source = "--set" if name in in_set else path if name in in_file else ""
        if source or value != info.default:
            tell(f"[debug] {format_override(name, value)}  ({source or 'default'})")


def script() -> NoReturn:
    """`main` as a process, which leaves without taking the interpreter apart.

    That takes a quarter of a second, in which the GPU would wait for the next run.
    """
    # Until the run begins: walking through all that is being loaded takes a fifth of a second.
    gc.disable()
    settle_streams()
    code = main()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    script()
