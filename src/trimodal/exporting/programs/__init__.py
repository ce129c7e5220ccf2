"""Programs that run in a format's own environment, started by their path: they import nothing of trimodal."""
