"""From what the user names to a `Model`."""
