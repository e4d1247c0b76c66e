"""The worker as a service of the user: a LaunchAgent on macOS, a systemd user unit on Linux.

It starts at login and again after a crash or a kernel panic; a worker that was asked to stop stays
stopped until the next login. Here is what the file says and how the system takes it up; `launchd`
and `systemd` do the rest (launchd.plist(5), systemd.service(5)).
"""

import os
import plistlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import SweepError, UsageError
from orchestrator.system import paths
from orchestrator.system.files import freeze
from orchestrator.system.paths import Home
from orchestrator.worker.serving import ENV_SERVICE

LABEL = "org.grpo-sweep.worker"
UNIT = "grpo-sweep.service"

# A service starts with next to nothing of the user's environment. Not among these: tokens, which
# do not belong into a file that is shown.
_KEPT = (
    *("PATH", "LANG", "XDG_DATA_HOME", "XDG_CACHE_HOME"),
    *("GRPO_GPU_LOCK", "GRPO_DEVICE", "GRPO_BLAS", "GRPO_THREADS", "GRPO_RELAX_WATCHDOG"),
    *(
        "GRPO_SWEEP_NOTIFY",
        "GRPO_SWEEP_REPORT_TO",
        "GRPO_SWEEP_REPORT_FROM",
        "HF_HOME",
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
    ),
)

# A worker lets its trainer checkpoint before it ends.
_STOP_S = 120
# Another worker may serve the queue by then: so often the service looks whether it has ended.
_AGAIN_S = 60


@dataclass(frozen=True)
class Service:
    """The file that makes it one, and the commands by which the system takes it up."""

    path: Path
    text: str
    install: tuple[tuple[str, ...], ...]
    remove: tuple[tuple[str, ...], ...]
    state: tuple[str, ...]
    """Exit code 0: it is loaded (launchd), or active (systemd)."""


def describe(
    words: Sequence[str],
    home: Home,
    environ: Mapping[str, str] = os.environ,
    platform: str = sys.platform,
) -> Service:
    """The service that runs the command `words` for the queue in `home`; UsageError elsewhere."""
    kept = {name: environ[name] for name in _KEPT if environ.get(name)}
    env = {**kept, paths.ENV_HOME: str(home.root), ENV_SERVICE: "1"}
    if platform == "darwin":
        return _launch_agent(words, home, env)
    if platform == "linux":
        return _systemd_unit(words, home, env, environ)
    raise UsageError(f"a service is known for macOS and for Linux with systemd, not for {platform}")


# --- macOS


def _launch_agent(words: Sequence[str], home: Home, env: Mapping[str, str]) -> Service:
    log = str(home.worker_log)
    text = plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(words),
            "EnvironmentVariables": dict(env),
            "WorkingDirectory": str(home.root),
            "StandardOutPath": log,
            "StandardErrorPath": log,
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": _AGAIN_S,
            "ExitTimeOut": _STOP_S,
            # The trainer outlives its worker, and is taken over by the next one.
            "AbandonProcessGroup": True,
            # Else it may be throttled as something that nobody waits for.
            "ProcessType": "Interactive",
        },
        sort_keys=False,
    ).decode()
    path = Path.home() / "Library" / "LaunchAgents" / f"{LABEL}.plist"
    domain = f"gui/{os.getuid()}"
    return Service(
        path=path,
        text=text,
        install=(("launchctl", "bootstrap", domain, str(path)),),
        remove=(("launchctl", "bootout", f"{domain}/{LABEL}"),),
        state=("launchctl", "print", f"{domain}/{LABEL}"),
    )


# --- Linux


def _systemd_unit(
    words: Sequence[str], home: Home, env: Mapping[str, str], environ: Mapping[str, str]
) -> Service:
    lines = [
        "[Unit]",
        "Description=grpo-sweep: trains what is queued",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_quoted, words))}",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in env.items()),
        f"WorkingDirectory={_specifiers(str(home.root))}",
        f"StandardOutput=append:{_specifiers(str(home.worker_log))}",
        "StandardError=inherit",
        "Restart=on-failure",
        f"RestartSec={_AGAIN_S}",
        # What a user must mend first: an argument, the queue's folder.
        "RestartPreventExitStatus=2",
        # The trainer outlives its worker, and is taken over by the next one.
        "KillMode=process",
        f"TimeoutStopSec={_STOP_S}",
        "",
        "[Install]",
        "WantedBy=default.target",
        "",
    ]
    config = environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    systemctl = ("systemctl", "--user")
    return Service(
        path=Path(config) / "systemd" / "user" / UNIT,
        text="\n".join(lines),
        install=((*systemctl, "daemon-reload"), (*systemctl, "enable", "--now", UNIT)),
        remove=((*systemctl, "disable", "--now", UNIT), (*systemctl, "daemon-reload")),
        state=(*systemctl, "is-active", "--quiet", UNIT),
    )


def _quoted(word: str) -> str:
    """A word as systemd takes it apart again, its own variables and specifiers not replaced."""
    escaped = _specifiers(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{escaped}"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


# --- both


def install(service: Service) -> None:
    """Write the file and let the system take it up; SweepError says what it answered."""
    service.path.parent.mkdir(parents=True, exist_ok=True)
    freeze(service.path, service.text)
    for words in service.install:
        _must(words, f"{service.path} is written, but the system does not take it up")


def remove(service: Service) -> bool:
    """Stop it and delete the file; whether there was one."""
    if not service.path.exists():
        return False
    for words in service.remove[:1]:
        # One that the system does not know is one that need not be stopped.
        answer(words)
    service.path.unlink()
    for words in service.remove[1:]:
        _must(words, f"{service.path} is deleted, but the system still knows it")
    return True


def is_taken_up(service: Service) -> bool:
    """Whether the system runs it, or stands ready to."""
    return answer(service.state)[0] == 0


def answer(words: Sequence[str]) -> tuple[int, str]:
    """The exit code of a command, and what it says; 127 where there is no such program."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return 127, f"there is no {words[0]} here"
    return done.returncode, (done.stderr or done.stdout).strip()


def _must(words: Sequence[str], what: str) -> None:
    code, said = answer(words)
    if code != 0:
        raise SweepError(f"{what}: {' '.join(words)}: {said or f'exit code {code}'}")
