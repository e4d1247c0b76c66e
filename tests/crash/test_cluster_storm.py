"""A cluster of three nodes under attack: each run comes out as if nobody had disturbed it."""

import pytest

from benchmarks.cluster_storm import ClusterStorm


@pytest.mark.storm
@pytest.mark.parametrize(
    ("real", "runs", "updates"), [(False, 10, 100), (True, 6, None)], ids=["fake", "real"]
)
def test_a_cluster_under_attack_loses_and_doubles_nothing(tmp_path, real, runs, updates):
    """Sixty times something dies, sleeps or is cut off; benchmarks/cluster_storm.py has more."""
    storm = ClusterStorm(tmp_path, seed=3, runs=runs, real=real, updates=updates)
    try:
        storm.rage(60)
        storm.calm()
        assert list(storm.faults()) == []
    finally:
        storm.close()
