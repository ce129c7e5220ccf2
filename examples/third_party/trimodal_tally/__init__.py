"""A family, a method and a data source for trimodal, from outside of it."""
