"""The Open Inference Protocol over gRPC.

messages  the protocol's messages, made when they are needed, in a pool of their own      tensors   contents of either form to arrays,
and back servicer  one method per call of the protocol                                             server    the server with its limits
"""
