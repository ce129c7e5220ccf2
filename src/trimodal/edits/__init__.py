"""The only code that changes a model: carried out when a place was solved, and replayed when an artifact is loaded."""
