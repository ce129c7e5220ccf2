"""Exported folders in stock Transformers.js, in Node and in a browser: `python -m benchmarks.browser`."""
