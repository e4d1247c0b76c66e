"""Where a scheduler listens, as users type it."""

import pytest

from orchestrator.cluster.address import Address, is_loopback
from orchestrator.errors import UsageError


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("192.168.1.5", "tls://192.168.1.5:8786"),
        ("mini.local:9000", "tls://mini.local:9000"),
        ("tls://mini.local:9000/", "tls://mini.local:9000"),
        ("[fe80::1]:9000", "tls://[fe80::1]:9000"),
        ("tcp://127.0.0.1:9000", "tcp://127.0.0.1:9000"),
        ("tcp://localhost", "tcp://localhost:8786"),
        ("tcp://[::1]:9000", "tcp://[::1]:9000"),
    ],
)
def test_address_is_read(text, uri):
    """Encrypted unless it says tcp, with Dask's port unless it says another."""
    assert Address.parse(text).uri == uri


@pytest.mark.parametrize(
    "text", ["", "a b", "host:0", "host:65536", "host:x", "user@host", "http://host:1", "fe80::1:9"]
)
def test_what_is_no_address_is_said(text):
    """With an example of one."""
    with pytest.raises(UsageError, match="HOST:PORT"):
        Address.parse(text)


@pytest.mark.parametrize("text", ["tcp://192.168.1.5:9000", "tcp://mini.local", "tcp://0.0.0.0"])
def test_without_tls_only_loopback_is_accepted(text):
    """Whoever reaches it could run programs here."""
    with pytest.raises(UsageError, match="without TLS"):
        Address.parse(text)


def test_loopback_is_all_of_127():
    """RFC 1122 and RFC 4291."""
    assert [is_loopback(host) for host in ("127.8.0.1", "::1", "LOCALHOST")] == [True] * 3
    assert [is_loopback(host) for host in ("128.0.0.1", "localhost.evil.org")] == [False] * 2
