"""The key of a cluster: one file that lets a machine in, for both ends of each connection (TLS).

A private key and a certificate that it signed itself. Who connects and who listens both show it,
and each takes none but this one: whoever has the file is in, and may run programs on all nodes.
Validity is not bounded by time: a machine whose clock is days off must not be locked out, and to
lock somebody out one makes a new key.
"""

import datetime
import os
import re
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path

from grpo_core.run.atomic import TEMPORARY, sync
from orchestrator.errors import UsageError

_NAME = "grpo-sweep cluster"
_FROM = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
# RFC 5280, 4.1.2.5: a certificate that has no end.
_UNTIL = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)
_FILE = re.compile(
    r"(-----BEGIN PRIVATE KEY-----\n[\w+/=\n]+-----END PRIVATE KEY-----\n)"
    r"(-----BEGIN CERTIFICATE-----\n[\w+/=\n]+-----END CERTIFICATE-----\n)"
)


@dataclass(frozen=True)
class ClusterKey:
    """The two halves of a key file, each as PEM, and where the file lies."""

    private: str = field(repr=False)
    certificate: str = field(repr=False)
    path: Path = field(compare=False)

    @property
    def fingerprint(self) -> str:
        """What two machines compare by eye to see that they have the same key."""
        # Not at the top: only a cluster needs it, and it is optional.
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes

        made = x509.load_pem_x509_certificate(self.certificate.encode())
        return made.fingerprint(hashes.SHA256()).hex()[:16]


def make_key(path: Path) -> ClusterKey:
    """A new key, written where only its owner may read it."""
    key = _new_key(path)
    beside = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    beside.unlink(missing_ok=True)
    # Private from its first byte on.
    with open(os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(key.private + key.certificate)
        file.flush()
        sync(file.fileno())
    os.replace(beside, path)
    return key


def read_key(path: Path) -> ClusterKey:
    """The key in a file; UsageError where there is none, or others may read it."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        raise UsageError(
            f"{path}: there is no such key; copy it from the machine on which "
            "grpo-sweep cluster up was typed, and name it with --key"
        ) from None
    except (OSError, UnicodeDecodeError) as e:
        raise UsageError(f"{path}: the cluster's key cannot be read: {e}") from None
    if mode & 0o077:
        raise UsageError(
            f"{path}: others may read this key, and with it run programs on every node; "
            f"type: chmod 600 {path}"
        )
    found = _FILE.fullmatch(text)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(path)
    except ssl.SSLError:
        found = None
    if found is None:
        raise UsageError(f"{path}: is no key of a cluster; copy the whole file again")
    return ClusterKey(found[1], found[2], path)


def _new_key(path: Path) -> ClusterKey:
    # Not at the top: only a cluster needs it, and it is optional.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(private, hashes.SHA256())
    )
    return ClusterKey(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        certificate.public_bytes(serialization.Encoding.PEM).decode(),
        path,
    )
