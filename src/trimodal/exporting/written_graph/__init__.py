"""Files as they were written, read again to be cut into pieces that are tried alone: one class per kind of file, one way to walk."""
