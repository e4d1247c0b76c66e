"""How a worker is told on whose nodes it trains."""

from pathlib import Path

import click
import pytest

from orchestrator.cli.cluster_options import ClusterChoice, cluster_options
from orchestrator.errors import UsageError
from orchestrator.worker import detach
from orchestrator.worker.slots import Slots


def read(*words):
    """What the options of a command say."""

    @click.command()
    @cluster_options
    def command(cluster):
        return cluster

    return command.main(list(words), standalone_mode=False)


@pytest.mark.parametrize(
    ("words", "choice"),
    [
        ((), None),
        (("--cluster",), ClusterChoice("")),
        (("--cluster", "--away", "0.5"), ClusterChoice("", away_s=30)),
        (("--cluster", "mini:9000", "--other-gpu"), ClusterChoice("mini:9000", other_gpu=True)),
        (("--cluster=mini", "--cluster-key", "/k"), ClusterChoice("mini", Path("/k"))),
    ],
)
def test_cluster_is_read_and_comes_to_a_worker_in_the_background(words, choice):
    """The address may be left out; what a worker in the background is told says the same."""
    assert read(*words) == choice
    if choice is not None:
        assert read(*choice.words()) == choice


def test_key_is_named_from_every_folder(tmp_path, monkeypatch):
    """A worker in the background stands in another one."""
    monkeypatch.chdir(tmp_path)
    assert read("--cluster", "--cluster-key", "k").words()[2] == str(tmp_path / "k")


@pytest.mark.parametrize("words", [("--away", "3"), ("--cluster-key", "k"), ("--other-gpu",)])
def test_what_goes_with_a_cluster_needs_one(words):
    """Else it would be ignored."""
    with pytest.raises(UsageError, match="go with --cluster"):
        read(*words)


def test_a_cluster_and_slots_here_are_both_told():
    """One slot here is not the same as none."""
    cluster = ClusterChoice("").words()
    assert detach.command(cluster=cluster)[5:] == ["--cluster="]
    assert detach.command(slots=Slots(1), cluster=cluster)[5:] == ["--slots", "1", "--cluster="]
