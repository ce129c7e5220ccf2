"""The one training loop, and the training of the built-in model."""
