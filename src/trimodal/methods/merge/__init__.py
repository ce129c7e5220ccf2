"""Fewer tokens: what stands for the same is computed once."""
