"""Methods that put two smaller factors in place of a weight."""
