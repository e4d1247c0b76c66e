"""Trains one GRPO run on MLX; knows nothing of queues or sweeps."""

__version__ = "0.1.0"
