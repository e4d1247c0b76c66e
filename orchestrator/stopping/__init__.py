"""Rules that decide that a run ends early: median, halving, health."""
