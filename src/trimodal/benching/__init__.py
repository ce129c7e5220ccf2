"""How fast exported files and modules run on this machine: measured side by side, in turn, and never promised beforehand.

    variants.py (what there is to time) → inputs.py (what it is given) → timing.py (in turn, round by round) → bench.py (the verb)
    probe.py    load time, memory and integer nodes, each in a process of its own
    choice.py   the fastest that is faithful, remembered for this machine
"""
