"""The built-in job: a dataset and a model of our own, trained here, and what `trimodal demo` does with them."""
