"""What the tests of plans share."""

import pytest

from tests.expansion_kit import BASE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with base.toml, in which the process stands."""
    (tmp_path / "base.toml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
