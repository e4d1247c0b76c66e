"""From a spec to runs: expansion, names, draws, follow-ups, and what the runs depend on."""
