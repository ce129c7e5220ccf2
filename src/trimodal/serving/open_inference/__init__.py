"""The Open Inference Protocol, version 2, without sockets: names, tensors, requests and answers.

    directory  which names there are, and what each takes and gives        datatypes  the protocol's types as numpy's
    requests   JSON and binary bodies to arrays, checked                   responses  arrays to JSON and binary bodies
    tasks      files and texts in BYTES tensors to answers in tensors      calls      one request carried out by the service
    reports    metadata, configuration, statistics, index

Source: the specification "open-inference-protocol" and Triton's extensions (binary tensor data, model configuration, statistics,
repository).
"""
