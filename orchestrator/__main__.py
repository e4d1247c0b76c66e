"""`python -m orchestrator` is `grpo-sweep`."""

import sys

from orchestrator.cli import main

sys.exit(main())
