"""Methods that train the compressed model to do what the original does."""
