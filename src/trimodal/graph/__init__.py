"""Structure found by running a model: what is cut together, what can be folded, what never runs."""
