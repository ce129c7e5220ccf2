"""Small models of many Transformers classes, each tried as a user would: see `__main__`."""
