"""What a run says on stderr: plain lines for people, the same in a terminal and in a log file.

Numbers for programs are in training_log.jsonl; nothing here is parsed by anyone. Only in a terminal
a line at the bottom shows what takes long, and how far it is by what it took the last time.
"""

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grpo_core.config import MLXGRPOConfig
from grpo_core.run.checkpoint import RunState, nothing_learnt
from grpo_core.run.protocol import FINAL_FOLDER, INTERVALS, score_text
from grpo_core.terminal import tell

MB = 10**6


class Console:
    """One line for each thing that happens; `verbose` adds what only some want to know."""

    def __init__(self, cfg: MLXGRPOConfig) -> None:
        self._verbose = cfg.verbose
        self._total = 0
        self._took_s: dict[str, float] = {}
        self._bottom: _Bottom | None = None

    def begin(self, updates: int, prompts: int, dropped: int) -> None:
        """How long the run is."""
        self._total = updates
        note = f", {dropped} dropped as too long" if dropped else ""
        self.line(f"[run] {updates} updates over {prompts} prompts{note}")

    def line(self, text: str) -> None:
        """As it stands."""
        if self._bottom is not None:
            self._bottom.clear()
        tell(text)

    @contextmanager
    def busy(self, what: str, source: str = "") -> Iterator[None]:
        """Show in a terminal, as long as the context is open, that `what` goes on.

        With the seconds that it has taken, from a second on; the second time with a bar. Not where
        the `source` is on the Hugging Face hub: that shows bars of its own.
        """
        if not sys.stderr.isatty() or not _is_here(source):
            yield
            return
        began = time.monotonic()
        with _Bottom(what, self._took_s.get(what)) as self._bottom:
            try:
                yield
            finally:
                self._bottom = None
        self._took_s[what] = time.monotonic() - began

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

    def update(self, line: Mapping[str, Any], metric: str, score: float | None) -> None:
        """One update, by its line of the log, with the last held-out score."""
        seconds = line["rollout_s"] + line["reward_s"] + line["update_s"]
        parts = [
            f"update {self._count(line['update'])}",
            f"reward {_number(line['reward_mean'], 6, 3)}",
            f"{metric} {score_text(metric, score):>6}",
            f"{seconds:6.1f} s",
        ]
        if self._verbose:
            parts += [
                f"loss {_number(line['loss'], 9, 5)}",
                f"kl {_number(line['kl'], 7, 4)}",
                f"norm {_number(line['grad_norm'], 8, 4)}",
                f"lr {line['lr']:.2e}",
                f"{line['completion_length']:5.1f} tokens",
                f"{line['tokens_per_s']:6.0f} tokens/s",
                f"{line['peak_bytes'] / MB:6.0f} MB",
            ]
        self.line("  ".join(parts))

    def evaluation(self, line: Mapping[str, Any], metric: str) -> None:
        """One evaluation, by its line of the log: the score that counts first."""
        names = [metric, *(name for name in INTERVALS if name in line and name != metric)]
        scores = "  ".join(_evaluated(line, name) for name in names)
        self.line(
            f"eval   {self._count(line['update'])}  {line['split']:<5}  {scores}  "
            f"(n {line['n']})  {line['eval_s']:.1f} s"
        )

    def completed(self, state: RunState, folder: Path) -> None:
        """The last line of a whole run."""
        text = f"[run] completed: {state.update} updates in {state.wall_s:.1f} s"
        best = state.best
        for metric in INTERVALS.keys() & best.keys():
            text += (
                f", {metric} {score_text(metric, state.last[metric])} "
                f"(best {score_text(metric, best[metric])} after update {best['update']})"
            )
        if reason := nothing_learnt(state):
            self.line(f"[run] {reason}")
        self.line(f"{text}; {folder / FINAL_FOLDER}")

    def _count(self, update: int) -> str:
        width = len(str(self._total))
        return f"{update:>{width}}/{self._total}"


def _evaluated(line: Mapping[str, Any], metric: str) -> str:
    text = f"{metric} {score_text(metric, line[metric])}"
    if line[INTERVALS[metric]] is None:
        return text
    low, high = (score_text(metric, end) for end in line[INTERVALS[metric]])
    return f"{text} (95%: {low} to {high})"


def _number(value: float | None, width: int, digits: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.{digits}f}"


def _is_here(source: str) -> bool:
    return not source or source.startswith("builtin/") or os.path.exists(source)


class _Bottom:
    """A line that a thread redraws in place, and that leaves nothing behind."""

    _EVERY_S = 0.25
    _PATIENCE_S = 1.0
    _BAR = 24

    def __init__(self, what: str, expected_s: float | None) -> None:
        self._what = what
        self._expected_s = expected_s
        self._began = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="console", daemon=True)

    def __enter__(self) -> "_Bottom":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.clear()

    def clear(self) -> None:
        """Make room for a line."""
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()

    def _draw(self) -> None:
        wait_s = self._PATIENCE_S
        while not self._over.wait(wait_s):
            wait_s = self._EVERY_S
            width = shutil.get_terminal_size().columns - 1
            sys.stderr.write("\r\x1b[K" + self._text(time.monotonic() - self._began)[:width])
            sys.stderr.flush()

    def _text(self, seconds: float) -> str:
        if not self._expected_s:
            return f"{self._what} … {seconds:.0f} s"
        # What takes longer than the last time is still not done.
        share = min(0.99, seconds / self._expected_s)
        full = round(self._BAR * share)
        bar = "━" * full + "─" * (self._BAR - full)
        return f"{self._what} {bar} {seconds:.0f} of about {self._expected_s:.0f} s"
