"""The first word to a scheduler: whether it is one of ours, with our key and our versions."""

import asyncio
import ssl
from collections.abc import Iterator
from importlib import metadata
from typing import Any

from distributed.comm.core import FatalCommClosedError
from distributed.core import rpc

from orchestrator.cluster.address import Address
from orchestrator.cluster.engine import CONNECT_S, security
from orchestrator.cluster.keys import ClusterKey
from orchestrator.errors import SweepError, UsageError

# The connection ended before both ends had shown their keys: that says nothing of them.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_ALIKE = ("grpo-sweep", "distributed")


class OtherVersion(SweepError):
    """A cluster of other versions than this machine's; the message says what to install."""


def versions() -> dict[str, str]:
    """What both ends of a connection must have alike."""
    return {name: metadata.version(name) for name in _ALIKE}


def check_versions(theirs: dict[str, Any], where: str) -> None:
    """Raise OtherVersion where a cluster has others than this machine."""
    for name, ours in versions().items():
        if (other := theirs.get(name)) != ours:
            raise OtherVersion(
                f"the cluster at {where} has {name} {other}, this machine {ours}; "
                "install the same on both"
            )


async def greet(
    address: Address, key: ClusterKey | None, name: str | None = None
) -> dict[str, Any] | None:
    """What a scheduler says of itself; None where none answers. UsageError, OtherVersion."""
    arguments = security(key).get_connection_args("worker")
    try:
        async with (
            asyncio.timeout(CONNECT_S * 2),
            rpc(address.uri, connection_args=arguments, deserialize=False) as scheduler,
        ):
            found = await scheduler.hello(name=name)
    except FatalCommClosedError as e:
        if any(isinstance(cause, _CUT) for cause in _causes(e)):
            return None
        raise UsageError(
            f"the cluster at {address} has another key; copy its key file again"
        ) from None
    except (OSError, TimeoutError, ValueError):
        # tornado's ValueError: the connection was closed before it could be encrypted.
        return None
    if not isinstance(found, dict) or not isinstance(found.get("versions"), dict):
        raise OtherVersion(f"what answers at {address} is no cluster of grpo-sweep")
    check_versions(found["versions"], str(address))
    return found


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__
