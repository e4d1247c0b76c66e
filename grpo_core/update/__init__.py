"""From completions to a step of the weights: advantages, loss, gradient, optimizer, memory."""
