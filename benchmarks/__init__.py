"""Benchmarks: each prints its table, then a line PASS or FAIL per pass line, and exits 1 if one fails.

Pass lines are fixed before running; a FAIL that can be explained is published, never tuned away.
"""
