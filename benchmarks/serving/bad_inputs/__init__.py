"""The 86 bad inputs of a served model: each sent to a real service, and what has to come of it."""
