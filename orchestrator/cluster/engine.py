"""What we set of `distributed` before it is used: quiet, without web pages, with short waits.

Follows the configuration reference of Dask (distributed.dask.org, "Configuration").
"""

import functools
import logging
import warnings
from collections.abc import Callable, Collection
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import dask
import distributed.protocol.core
from distributed.security import Security

from orchestrator.cluster.keys import ClusterKey

# A node that was not heard of for so long is away, though its connection looks open.
HEARD_WITHIN_S = 30.0
HEARTBEAT_S = 5.0
CONNECT_S = 5.0

_LOG_BYTES = 2**20
_LOGGERS = ("distributed", "tornado", "asyncio")
_SETTINGS: dict[str, Any] = {
    "distributed.comm.timeouts.connect": f"{CONNECT_S:.0f}s",
    # A cable that is pulled: the connection is given up after so long without an answer.
    "distributed.comm.timeouts.tcp": f"{HEARD_WITHIN_S:.0f}s",
    # In its record of what was sent pieces of files would fill the memory.
    "distributed.admin.low-level-log-length": 10,
    "distributed.worker.profile.enabled": False,
    # It looks at itself fifty times a second: that keeps a laptop from resting.
    "distributed.admin.tick.interval": "2s",
    "distributed.admin.tick.limit": "60s",
    "distributed.admin.system-monitor.interval": "60s",
    # By its wall clock; `hub.py` looks at ours.
    "distributed.scheduler.worker-ttl": None,
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
    "distributed.scheduler.active-memory-manager.start": False,
}


class _LogFile(RotatingFileHandler):
    """What the engine reports; where the disk is full that is lost, and nothing else."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Without the traceback that Python would print for each line."""


class _Pickle:
    """In the place of Dask's own `pickle` where it reads a message: reads nothing.

    A message may say that a part of it is pickled, and Dask then runs that, whatever it was told of
    deserialising. None of ours is.
    """

    @staticmethod
    def loads(*_: Any, **__: Any) -> None:
        """ValueError, so that the connection ends."""
        raise ValueError("a part of the message is pickled, and may be a program: it is not read")

    @staticmethod
    def dumps(value: object, **_: Any) -> bytes:
        """TypeError: nothing is sent in this way."""
        raise TypeError(f"{type(value).__name__}: only plain values are sent")


def set_up(log: Path | None = None) -> None:
    """Our settings, over those of the user's Dask; what it reports goes to a file, or nowhere."""
    dask.config.set(_SETTINGS)
    setattr(distributed.protocol.core, "pickle", _Pickle)  # noqa: B010
    warnings.filterwarnings("ignore", module="distributed")
    handler: logging.Handler = logging.NullHandler()
    if log is not None:
        handler = _LogFile(log, maxBytes=_LOG_BYTES, backupCount=1, delay=True)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    for name in tuple(logging.root.manager.loggerDict):
        if name.partition(".")[0] in _LOGGERS:
            logging.getLogger(name).handlers.clear()
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False


class _Prepared(Security):
    """What connections are encrypted by, made once: the key's file may be gone later."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)  # type: ignore[no-untyped-call]
        self._made: dict[tuple[str, str], dict[str, Any]] = {}

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """For who connects."""
        return dict(self._once(("connect", role), super().get_connection_args))

    def get_listen_args(self, role: str) -> dict[str, Any]:
        """For who listens."""
        return dict(self._once(("listen", role), super().get_listen_args))

    def _once(self, kind: tuple[str, str], make: Callable[[str], Any]) -> dict[str, Any]:
        if kind not in self._made:
            self._made[kind] = make(kind[1])
        return self._made[kind]


@functools.cache
def security(key: ClusterKey | None) -> Security:
    """Both ends show the key and take no other; without one nothing is encrypted."""
    if key is None:
        return Security(require_encryption=False)
    halves = {}
    for role in ("client", "scheduler", "worker"):
        # By its file: of a text Dask makes a temporary one, for which a full disk has no room, and
        # which a process that is killed leaves behind.
        halves[f"tls_{role}_key"] = halves[f"tls_{role}_cert"] = str(key.path)
    return _Prepared(require_encryption=True, tls_ca_file=key.certificate, **halves)


def keep_only(handlers: dict[str, Any], kept: Collection[str]) -> None:
    """Leave of Dask's calls those that we need: none that runs what somebody sends."""
    for name in handlers.keys() - set(kept):
        del handlers[name]
