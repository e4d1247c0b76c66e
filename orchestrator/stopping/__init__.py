"""Rules that stop a run early: median, halving, health."""
