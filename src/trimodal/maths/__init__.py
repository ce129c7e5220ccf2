"""Pure tensor functions that two or more methods use. No modules, no files, no state."""
