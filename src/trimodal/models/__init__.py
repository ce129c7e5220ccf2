"""Load: folder, hub id or function -> `Model`. Families say what the parts are called; `apply` changes a model."""
