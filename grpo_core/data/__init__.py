"""Rows of a data set -> examples -> prompts; reference answers; train and held-out splits."""
