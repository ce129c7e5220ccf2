"""Methods that train a compressed model as it will be stored."""
