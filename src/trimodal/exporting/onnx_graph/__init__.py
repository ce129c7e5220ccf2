"""One ONNX graph for every runtime that reads one: traced in float, codes written in, tidied, saved."""
