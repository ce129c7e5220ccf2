"""How fast models run on this machine's CPU, in every runtime, beside what other tools make of them. See `__main__.py`."""
