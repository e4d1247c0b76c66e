"""Whether the machine runs on its battery, and since when nobody has touched it.

The one thing here that only macOS can say is how long it has been idle: IOKit's `HIDIdleTime`.
"""

import re
import subprocess
import sys

_IOREG = ("/usr/sbin/ioreg", "-c", "IOHIDSystem", "-d", "4")
_IOREG_S = 10.0


def on_battery() -> bool:
    """Whether a battery feeds the machine; False where it has none."""
    import psutil  # Not at the top: only a worker that was told to look needs it.

    found = psutil.sensors_battery()
    # None also where the system cannot say whether it is plugged in.
    return found is not None and found.power_plugged is False


def can_tell_idle(platform: str = sys.platform) -> bool:
    """Whether `idle_s` has an answer on this system."""
    return platform == "darwin"


def idle_s() -> float:
    """Seconds since somebody used keyboard, mouse or trackpad. Raises OSError, ValueError."""
    try:
        done = subprocess.run(_IOREG, capture_output=True, text=True, timeout=_IOREG_S, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{_IOREG[0]} gave no answer within {_IOREG_S:.0f} s") from None
    return read_idle_s(done.stdout)


def read_idle_s(text: str) -> float:
    """The seconds in what ioreg(8) prints; ValueError where they are not in it."""
    found = re.search(r'"HIDIdleTime"\s*=\s*(\d+)', text)
    if found is None:
        raise ValueError("ioreg prints no HIDIdleTime")
    return int(found[1]) / 1e9
