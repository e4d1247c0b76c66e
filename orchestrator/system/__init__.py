"""What the machine gives: paths, locks, processes, files, and named crash points."""
