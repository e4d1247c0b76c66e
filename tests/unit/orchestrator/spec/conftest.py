"""What the tests of specs share."""

import pytest

from tests.spec_kit import BASE


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with configs/base.toml, in which the process stands."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base.toml").write_text(BASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path
