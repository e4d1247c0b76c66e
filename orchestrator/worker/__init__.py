"""The worker: claims runs, launches and watches trainers, judges their ends."""
