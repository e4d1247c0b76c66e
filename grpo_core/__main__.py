"""`mlx-grpo`: argv -> config -> trainer; an error becomes one message and its exit code.

mlx is imported after the configuration has been found good, so a typo costs no seconds.
"""

import sys
import traceback
from collections.abc import Sequence

from grpo_core.config import (
    FIELDS,
    MLXGRPOConfig,
    advice,
    config_path,
    format_override,
    load_toml_config,
    resolve_config,
)
from grpo_core.errors import EXIT_OK, GRPOError
from grpo_core.run_folder import RunFolder, claim
from grpo_core.stop import StopFlag
from grpo_core.usage import make_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trainer's command line; returns the exit code."""
    args = make_parser().parse_args(argv)
    stop = StopFlag().install()
    debug = False
    try:
        cfg = resolve_config(args.config, args.set, args.strict)
        debug = cfg.debug
        if debug:
            _explain_values(args.config, args.set, cfg)
        for line in advice(cfg):
            _say(f"[note] {line}")
        if args.dry_run or cfg.dry_run:
            _dry_run(cfg, args.strict)
        else:
            _train(cfg, args.strict, stop, wait=not args.no_wait)
    except GRPOError as error:
        if debug:
            traceback.print_exc()
        _say(f"error: {error}")
        return error.exit_code
    return EXIT_OK


def _train(cfg: MLXGRPOConfig, strict: bool, stop: StopFlag, wait: bool) -> None:
    folder = claim(cfg, strict, stop.wait, wait)
    if folder.lock is None:
        _say(_completed_words(folder))
        return
    with folder.lock:
        # Late, as it takes mlx, transformers and datasets along.
        from grpo_core.trainer import train

        train(folder, stop, wait)


def _completed_words(folder: RunFolder) -> str:
    result = folder.result
    em = result.get("final", {}).get("em")
    score = f", em {em:.3f}" if isinstance(em, float) else ""
    return (
        f"[run] {folder.path} is completed ({result.get('updates')} updates{score}); "
        "nothing to do. Another output_dir trains again"
    )


def _dry_run(cfg: MLXGRPOConfig, strict: bool) -> None:
    from grpo_core.dry_run import describe

    for line in describe(cfg, strict):
        print(line, flush=True)


def _explain_values(config: str | None, overrides: Sequence[str], cfg: MLXGRPOConfig) -> None:
    """Where each value that is not the default came from."""
    path = config_path(config)
    try:
        in_file = set(load_toml_config(path))
    except GRPOError:
        in_file = set()
    in_set = {item.partition("=")[0].strip() for item in overrides}
    for name, info in FIELDS.items():
        value = getattr(cfg, name)
        source = "--set" if name in in_set else path if name in in_file else ""
        if source or value != info.default:
            _say(f"[debug] {format_override(name, value)}  ({source or 'default'})")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
