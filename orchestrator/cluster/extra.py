"""Whether what a cluster runs on is installed: it is optional."""

import importlib.util

from orchestrator.errors import UsageError


def need() -> None:
    """Raise UsageError where the engine of a cluster, or what makes its keys, is not there."""
    for name in ("distributed", "cryptography"):
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                f"a cluster needs {name}, which is not here; "
                "get it with: pip install 'grpo-sweep[cluster]'"
            )
