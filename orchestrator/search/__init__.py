"""Suggestions: random, Sobol and TPE from finished trials, and how important each parameter was."""
