"""Limits that a process was given: never an error, never lowered."""

import resource
import subprocess
import sys

import pytest

# In a process of its own: what is lowered once cannot be raised again.
CODE = """
import resource, sys
from grpo_core.run.surroundings import open_files_kept
def refusing(which, limits, real=resource.setrlimit):
    # As for a user who is not root.
    if limits[1] > resource.getrlimit(which)[1]:
        raise ValueError("not allowed to raise maximum limit")
    real(which, limits)
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[2])))
resource.setrlimit = refusing
with open_files_kept():
    import mlx_lm.utils
assert resource.setrlimit is refusing
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [((256, 1024), (1024, 1024)), ((1024, 8192), (2048, 8192)), ((8192, 16384), (8192, 16384))],
)
def test_the_limit_of_open_files_is_raised_as_far_as_allowed_and_never_lowered(before, after):
    """mlx-lm's import sets (2048, 4096), whatever was before."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 16384:
        pytest.skip("this shell allows fewer open files than the test wants")
    words = [sys.executable, "-c", CODE, *map(str, before)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)
    assert tuple(map(int, done.stdout.split())) == after
