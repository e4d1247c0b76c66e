"""Parts of benchmarks/time_to_score.py."""
