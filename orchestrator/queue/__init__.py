"""The queue in SQLite: its schema, and every statement that reads or changes it."""
