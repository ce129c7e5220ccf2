"""Images and sounds out of files and bytes. Needs no torch, so that a process that only decodes is small."""
