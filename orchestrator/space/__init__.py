"""The search space: parameters, their distributions, expressions and constraints."""
