"""The parts of `benchmarks/trainer.py`; only `work`, `ours`, `peer_venv` and `flops` spare mlx."""
