"""The policy: an mlx-lm model, its adapters, its trunk and head, shared prompts, the device."""
