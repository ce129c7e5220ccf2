"""Serving: from folders to answers that other people's clients can ask for.

    protocol ──> service ──> admission ──> decode, encode ──> batch ──> runtime ──> answer ──> protocol

Nothing here but `http/`, `grpc/` and `processes/` knows of sockets. `service.py` is the whole of it, in one process, for tests and engines.
"""
