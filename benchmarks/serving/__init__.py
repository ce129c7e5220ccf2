"""Benchmarks of serving: one file per claim. Each prints its table and its lines."""
