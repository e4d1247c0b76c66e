"""How long a new sweep will take, from one real update and what the trainer itself counts."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from grpo_core.config import format_override
from orchestrator.errors import SweepError
from orchestrator.plan.expand import Expansion
from orchestrator.plan.runs import PlannedSetting
from orchestrator.starting.files import BASE
from orchestrator.text import duration, plural, size
from orchestrator.worker.launcher import TRAINER
from orchestrator.worker.probe import ProbeResult, check, heaviest

NIGHT_S = 8 * 3600.0
_DRY_RUN_S = 600.0


@dataclass(frozen=True)
class Night:
    """What one update of the heaviest setting took, and how many there are."""

    runs: int
    updates: int
    probe: ProbeResult

    @property
    def run_s(self) -> float:
        """Seconds of a run: loading, and each update as long as the one that was tried."""
        load_s = max(0.0, self.probe.wall_s - self.probe.update_s)
        return load_s + self.updates * self.probe.update_s

    def text(self) -> str:
        """What it will do, in words."""
        whole_s = self.runs * self.run_s
        words = (
            f"one update took {self.probe.update_s:.1f} s and {size(self.probe.peak_bytes)}; "
            f"{plural(self.runs, 'run')} of {plural(self.updates, 'update')} are "
            f"about {duration(whole_s)} without evaluations"
        )
        if whole_s <= NIGHT_S:
            return f"{words}: done within a night"
        fit = int(NIGHT_S // self.run_s)
        return f"{words}: a night of 8 hours does about {plural(fit, 'run')}; the next goes on"


def forecast_night(expansion: Expansion, folder: Path) -> Night:
    """Try one update of the setting that needs the most memory; SweepError where it fails."""
    setting = heaviest(expansion.spec, expansion.settings)[0]
    runs = len(expansion.settings) * max(1, len(expansion.spec.seeds))
    updates = _updates(expansion, setting, folder)
    return Night(runs, updates, check(expansion.spec, setting, str(folder)))


def _updates(expansion: Expansion, setting: PlannedSetting, folder: Path) -> int:
    """What the trainer counts from its rows, without training."""
    base = Path(expansion.spec.source).resolve().parent / BASE
    words = [*TRAINER, "--config", str(base), "--strict", "--dry-run"]
    for key, value in setting.overrides.items():
        words += ["--set", format_override(key, value)]
    done = subprocess.run(
        words,
        cwd=folder,
        env=os.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_DRY_RUN_S,
    )
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if not line.startswith("[config]")]
        raise SweepError(
            "\n".join(said).strip().removeprefix("error: ") or "the trainer refuses this sweep"
        )
    found = re.search(r"^# updates: (\d+)", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return int(found[1])
