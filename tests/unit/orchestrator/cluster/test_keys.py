"""The file that lets a machine into a cluster."""

import os
import stat
from datetime import UTC, datetime

import pytest
from cryptography import x509

from orchestrator.cluster.keys import make_key, read_key
from orchestrator.errors import UsageError


def test_key_is_private_and_comes_back(tmp_path):
    """Nobody else may read it, whatever the umask."""
    before = os.umask(0)
    try:
        key = make_key(tmp_path / "key.pem")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key.pem").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["key.pem"]
    assert read_key(tmp_path / "key.pem") == key
    assert "PRIVATE" not in repr(key)
    assert key.private not in repr(key)


def test_each_key_is_another(tmp_path):
    """So a new one locks out who has the old one."""
    keys = [make_key(tmp_path / name) for name in ("a", "b")]
    assert keys[0].private != keys[1].private
    assert keys[0].fingerprint != keys[1].fingerprint


def test_clock_does_not_matter(tmp_path):
    """A machine whose clock began anew at 1970 is let in, and no key runs out overnight."""
    made = x509.load_pem_x509_certificate(make_key(tmp_path / "key").certificate.encode())
    assert made.not_valid_before_utc <= datetime(1970, 1, 1, tzinfo=UTC)
    assert made.not_valid_after_utc >= datetime(2999, 1, 1, tzinfo=UTC)


def test_key_that_others_may_read_is_refused(tmp_path):
    """As ssh does it; the message says what to type."""
    path = tmp_path / "key"
    make_key(path)
    path.chmod(0o640)
    with pytest.raises(UsageError, match=f"chmod 600 {path}"):
        read_key(path)


def test_missing_and_torn_keys_are_said(tmp_path):
    """Each with what to do."""
    with pytest.raises(UsageError, match="--key"):
        read_key(tmp_path / "none")
    path = tmp_path / "key"
    make_key(path)
    path.write_text(path.read_text()[:300])
    with pytest.raises(UsageError, match="copy the whole file"):
        read_key(path)
    halves = [make_key(tmp_path / name) for name in ("a", "b")]
    path.write_text(halves[0].private + halves[1].certificate)
    with pytest.raises(UsageError, match="copy the whole file"):
        read_key(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        read_key(path)
