"""Expands sweeps, queues and launches runs, shows results; never imports mlx."""
