"""The slots of a worker: each holds one trainer at a time, on a device or a share of the machine.

`--devices 0,1` names CUDA devices, one a slot, and their slots are called as they are. `--slots 2`
parts one machine: its slots are called 0 and 1. What a slot changes is its trainers' environment:
the device that they see, the lock of that device, and their share of the cores. A single slot
changes nothing.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from grpo_core.blas.threads import ENV as ENV_THREADS
from grpo_core.blas.threads import available_cores
from grpo_core.run.locks import ENV_DEVICES, ENV_GPU_LOCK, gpu_lock_path, lock_beside
from orchestrator.errors import UsageError
from orchestrator.run import FIRST_SLOT

MOST_SLOTS = 64
# As CUDA_VISIBLE_DEVICES names them: by number, or by (the beginning of) an id.
_DEVICE = re.compile(r"\d{1,3}|(GPU|MIG)-[\w/-]+")


@dataclass(frozen=True)
class Slot:
    """One trainer at a time; `env` is what its trainers find in their environment."""

    name: str = FIRST_SLOT
    env: Mapping[str, str] = field(default_factory=dict)
    node: str | None = None
    """The machine of a cluster on which they run; None: this one."""
    leaving: bool = False
    """It only follows the trainer that a worker before has left there, and takes no other run."""


@dataclass(frozen=True)
class Slots:
    """What a worker was told about its slots; nothing: it has one."""

    count: int = 1
    devices: tuple[str, ...] = ()

    @classmethod
    def parse(
        cls,
        count: int | None,
        devices: str | None,
        environ: Mapping[str, str] = os.environ,
        platform: str = sys.platform,
    ) -> "Slots":
        """What `--slots` and `--devices` say; UsageError."""
        if devices is None:
            return cls(1 if count is None else count)
        if count is not None:
            raise UsageError("--slots and --devices: give one of them; each device is a slot")
        if platform == "darwin":
            raise UsageError("--devices names CUDA devices; a Mac has one GPU: see --slots")
        return cls(devices=_parse_devices(devices, environ))

    def words(self) -> list[str]:
        """The options of `work` that say the same."""
        if self.devices:
            return ["--devices", ",".join(self.devices)]
        return ["--slots", str(self.count)]

    @property
    def names(self) -> tuple[str, ...]:
        """The slots by name, in order."""
        return self.devices or tuple(map(str, range(self.count)))

    def each(self, environ: Mapping[str, str] = os.environ) -> tuple[Slot, ...]:
        """The slots, as parts of a machine with that environment."""
        if not self.devices and self.count == 1:
            return (Slot(),)
        threads = _threads(len(self.names), environ)
        if not self.devices:
            return tuple(
                Slot(name, {**threads, ENV_GPU_LOCK: str(_lock_of(name, environ))})
                for name in self.names
            )
        # The lock goes by the device, whoever asks for it.
        others = {key: value for key, value in environ.items() if key != ENV_DEVICES}
        return tuple(
            Slot(
                name,
                {
                    **threads,
                    ENV_DEVICES: name,
                    # By number as nvidia-smi counts them, not the fastest first.
                    "CUDA_DEVICE_ORDER": environ.get("CUDA_DEVICE_ORDER") or "PCI_BUS_ID",
                    ENV_GPU_LOCK: str(_lock_of(name, others)),
                },
            )
            for name in self.names
        )


def _parse_devices(text: str, environ: Mapping[str, str]) -> tuple[str, ...]:
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if not _DEVICE.fullmatch(word):
            raise UsageError(
                f"--devices {text}: {word or 'nothing'!r} is no device; name them by number or id, "
                "as nvidia-smi -L lists them: --devices 0,1"
            )
    names = tuple(str(int(word)) if word.isdecimal() else word for word in found)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"--devices {text}: device {twice} is named twice")
    if len(names) > MOST_SLOTS:
        raise UsageError(f"--devices {text}: no more than {MOST_SLOTS}")
    visible = environ.get(ENV_DEVICES)
    known = [word.strip() for word in (visible or "").split(",")]
    if visible is not None and (hidden := [name for name in names if name not in known]):
        raise UsageError(
            f"--devices {text}: {ENV_DEVICES}={visible} hides device {', '.join(hidden)}"
        )
    return names


def _threads(slots: int, environ: Mapping[str, str]) -> dict[str, str]:
    """The cores shared out, unless the user has said how many threads a trainer has."""
    if environ.get(ENV_THREADS):
        return {}
    return {ENV_THREADS: str(max(1, available_cores() // slots))}


def _lock_of(slot: str, environ: Mapping[str, str]) -> Path:
    whole = gpu_lock_path(environ)
    return whole if slot == FIRST_SLOT else lock_beside(whole, slot)
