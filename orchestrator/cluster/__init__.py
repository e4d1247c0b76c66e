"""Other machines: what a node does, what a head sends it, and what carries both."""
