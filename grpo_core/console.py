"""What a run says on stderr: plain lines for people, the same in a terminal and in a log file.

Numbers for programs are in training_log.jsonl; nothing here is parsed by anyone.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grpo_core.checkpoint import RunState
from grpo_core.config import MLXGRPOConfig

MB = 10**6


class Console:
    """One line for each thing that happens; `verbose` adds what only some want to know."""

    def __init__(self, cfg: MLXGRPOConfig) -> None:
        self._verbose = cfg.verbose
        self._total = 0

    def begin(self, updates: int, prompts: int, dropped: int) -> None:
        """How long the run is."""
        self._total = updates
        words = f", {dropped} dropped as too long" if dropped else ""
        self.line(f"[run] {updates} updates over {prompts} prompts{words}")

    def line(self, text: str) -> None:
        """As it stands."""
        print(text, file=sys.stderr, flush=True)

    def detail(self, text: str) -> None:
        """Only with `verbose`."""
        if self._verbose:
            self.line(text)

    def resumed(self, path: Path, state: RunState, versions: Mapping[str, str]) -> None:
        """Where the run goes on, and what is no longer as it was."""
        self.line(f"[resume] going on from {path}, after update {state.update}")
        for name, before in state.versions.items():
            if versions.get(name) not in (None, before):
                self.line(f"[resume] {name} was {before}, is {versions[name]}: bits may differ")

    def update(self, line: Mapping[str, Any], em: float | None) -> None:
        """One update, by its line of the log."""
        seconds = line["rollout_s"] + line["reward_s"] + line["update_s"]
        words = [
            f"update {self._count(line['update'])}",
            f"reward {_number(line['reward_mean'], 6, 3)}",
            f"em {_number(em, 5, 3)}",
            f"{seconds:6.1f} s",
        ]
        if self._verbose:
            words += [
                f"loss {_number(line['loss'], 9, 5)}",
                f"kl {_number(line['kl'], 7, 4)}",
                f"norm {_number(line['grad_norm'], 8, 4)}",
                f"lr {line['lr']:.2e}",
                f"{line['completion_length']:5.1f} tokens",
                f"{line['tokens_per_s']:6.0f} tokens/s",
                f"{line['peak_bytes'] / MB:6.0f} MB",
            ]
        self.line("  ".join(words))

    def evaluation(self, line: Mapping[str, Any]) -> None:
        """One evaluation, by its line of the log."""
        low, high = line["ci95"]
        self.line(
            f"eval   {self._count(line['update'])}  {line['split']:<5}  em {line['em']:.3f}  "
            f"(n {line['n']}, 95% {low:.3f} to {high:.3f})  {line['eval_s']:.1f} s"
        )

    def completed(self, state: RunState, folder: Path) -> None:
        """The last line of a whole run."""
        words = f"[run] completed: {state.update} updates in {state.wall_s:.1f} s"
        if state.best:
            em, best = state.last["em"], state.best
            words += f", em {em:.3f} (best {best['em']:.3f} after update {best['update']})"
        self.line(f"{words}; {folder / 'final'}")

    def _count(self, update: int) -> str:
        width = len(str(self._total))
        return f"{update:>{width}}/{self._total}"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"
