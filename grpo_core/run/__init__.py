"""A run as files and processes: its folder, checkpoints, logs, locks, signals, exceptions."""
