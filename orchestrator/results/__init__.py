"""What runs reached: training logs, curves, statistics, leaderboard, exports."""
