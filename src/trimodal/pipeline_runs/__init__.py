"""Train, prune, distil, quantize, recover and export from one file, restartable at each arrow."""
