"""Methods that keep a weight in fewer bits."""
