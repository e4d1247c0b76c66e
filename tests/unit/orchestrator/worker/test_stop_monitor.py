"""What the running run is judged by."""

from orchestrator.stopping.curves import RunCurve
from orchestrator.stopping.health import HealthRule
from orchestrator.stopping.rules import StopRule
from orchestrator.worker.stop_monitor import judge
from tests.run_curves import EM


def test_health_comes_before_the_median():
    """And works whatever the rule."""
    curve = RunCurve(1, "s", [{"update": u, "kl": 9.0, "em": 0.9} for u in (1, 2)], 4)
    for rule in ("none", "median", "halving"):
        stop = StopRule(rule, health=(HealthRule("kl", ">", 1.0, 2),))
        assert judge(curve, [], stop, EM).reason.startswith("health: kl > 1 for 2")
