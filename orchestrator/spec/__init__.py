"""A sweep spec as written: read, checked, every fault with its key path and line."""
