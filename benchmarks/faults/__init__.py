"""Faults that others met when they tried the project, each tried again: `python -m benchmarks.faults`.

Every entry is one situation, numbered as it was reported. A module of this package holds the entries of one kind; `ENTRIES`
in it maps numbers to functions that take an empty folder, try the situation with the public ways in (the functions of
`trimodal`, or the command line in a process of its own), and return what came, in one line. What is wrong raises `Wrong`.
"""
