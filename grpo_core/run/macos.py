"""What a process of ours asks of macOS: to stay awake, and that the display's watchdog be patient.

The one place for it in both packages; on any other system nothing is done.
"""

import subprocess
import sys
from collections.abc import MutableMapping

from grpo_core.errors import ConfigError

CAFFEINATE = "/usr/bin/caffeinate"

# The driver's own switch, as suggested in mlx #3267: it helped the reporter, not everybody.
DRIVER = "AGX_RELAX_CDM_CTXSTORE_TIMEOUT"
ENV_RELAX = "GRPO_RELAX_WATCHDOG"


def relax_watchdog(environ: MutableMapping[str, str], platform: str = sys.platform) -> str | None:
    """Set the driver's switch against the display's watchdog; the line that says so.

    Before MLX opens the device. None where nothing was set: another system, switched off by
    GRPO_RELAX_WATCHDOG=0, or a user's own value stands. ConfigError for any other word than 0 or 1.
    """
    word = environ.get(ENV_RELAX, "")
    if word not in ("", "0", "1"):
        raise ConfigError(f"{ENV_RELAX}={word}: must be 0 or 1")
    if platform != "darwin" or word == "0" or DRIVER in environ:
        return None
    environ[DRIVER] = "1"
    return (
        f"[gpu] {DRIVER}=1 is set, so that the display's watchdog waits longer (mlx #3267); "
        f"{ENV_RELAX}=0 leaves it unset"
    )


def stay_awake(
    pid: int, platform: str = sys.platform, program: str = CAFFEINATE
) -> "subprocess.Popen[bytes] | None":
    """Keep the Mac from idle sleep until `pid` ends, or until this is terminated; None elsewhere.

    Raises OSError where caffeinate(8) cannot be started. A closed lid sleeps all the same.
    """
    if platform != "darwin":
        return None
    return subprocess.Popen(
        [program, "-i", "-w", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
