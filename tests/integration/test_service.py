"""`grpo-sweep service` with a manager in the place of systemctl and launchctl."""

import click
import pytest


@pytest.fixture
def managers(tmp_path, monkeypatch):
    """Where the notes are: a manager that takes up whatever it is given."""
    folder = tmp_path / "managers"
    folder.mkdir()
    for name in ("systemctl", "launchctl"):
        program = folder / name
        program.write_text(
            f'#!/bin/sh\necho "$@" >> {folder}/asked\n'
            f'case "$*" in *enable*|*bootstrap*) touch {folder}/on;;'
            f" *disable*|*bootout*) rm -f {folder}/on;;"
            f" *is-active*|*print*) test -e {folder}/on;; esac\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder


def test_a_service_is_shown_before_it_is_written(say, managers, monkeypatch):
    """Asked first; with --yes written and taken up, with the worker's options; then removed."""
    monkeypatch.setattr("click.confirm", _no)
    code, out, err = say("service", "install", "--between", "22:00-8:00", "--on-power")
    assert code == 130
    assert "--between" in out
    assert "22:00-08:00" in out
    assert not (managers / "on").exists()
    assert say("service", "status")[0] == 3
    code, out, err = say("service", "install", "--between", "22:00-8:00", "--yes")
    assert code == 0
    assert (managers / "on").exists()
    out = say("service", "status")[1]
    assert "system  taken up\n" in out
    assert "worker  none runs\n" in out
    path = out.splitlines()[0].split(maxsplit=1)[1]
    with open(path) as file:
        assert "22:00-08:00" in file.read()
    code, _, err = say("service", "remove")
    assert (code, f"{path} is deleted" in err) == (0, True)
    assert not (managers / "on").exists()
    assert say("service", "remove")[0] == 3


def _no(text, **_):
    """A user who does not want it."""
    assert "service" in text or "plist" in text
    raise click.Abort
