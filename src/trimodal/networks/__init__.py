"""Our own networks: the fused model, and miniatures of every family for tests and first tries."""
