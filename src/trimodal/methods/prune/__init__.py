"""Methods that remove weights, neurons or heads."""
