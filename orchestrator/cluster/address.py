"""Where a scheduler listens: `HOST:PORT`, encrypted unless it is on loopback and says `tcp://`."""

import ipaddress
import re
from dataclasses import dataclass

from orchestrator.errors import UsageError

PORT = 8786
"""That of Dask's schedulers."""
LOOPBACK = "127.0.0.1"

_ADDRESS = re.compile(
    r"(?:(?P<scheme>tls|tcp)://)?(?P<host>\[[\w:.%]+\]|[^\s:/\[\]@]+)(?::(?P<port>\d{1,5}))?/?"
)


@dataclass(frozen=True)
class Address:
    """A scheduler's address; `tls`: encrypted, and only for who has the key."""

    host: str
    port: int = PORT
    tls: bool = True

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`HOST`, `HOST:PORT`, `[IPV6]:PORT`, with `tls://` or `tcp://` before it; UsageError."""
        found = _ADDRESS.fullmatch(text.strip())
        port = int(found["port"] or PORT) if found else 0
        if found is None or not 0 < port < 65536:
            raise UsageError(f"{text}: is no address; write HOST:PORT, such as 192.168.1.5:{PORT}")
        return cls(found["host"].strip("[]"), port, found["scheme"] != "tcp").checked()

    def checked(self) -> "Address":
        """Itself; UsageError where it is open to others without a key."""
        if not self.tls and not is_loopback(self.host):
            raise UsageError(
                f"{self.host}: without TLS a cluster may only listen on {LOOPBACK}: whoever "
                "reaches it could run programs as you"
            )
        return self

    @property
    def place(self) -> str:
        """`HOST:PORT`, as a user types it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def uri(self) -> str:
        """As `distributed` takes it."""
        return f"{'tls' if self.tls else 'tcp'}://{self.place}"

    def __str__(self) -> str:
        return self.place if self.tls else self.uri


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine can reach the host."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return host.lower() == "localhost"
