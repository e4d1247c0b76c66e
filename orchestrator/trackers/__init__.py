"""The ways out to the tools that people follow runs with: live from the logs, or all at once."""
