"""Completions sampled from the policy."""
