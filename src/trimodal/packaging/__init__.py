"""What is needed to serve a folder elsewhere, as files that other programs read: containers, Kubernetes, Triton, Ray Serve.

    folder ──> read_bundle ──> docker | compose | kubernetes | triton | ray ──> a folder to hand over

Nothing is built, started or sent anywhere. Every kind lists its files, so that what a command will do can be read before it is run.
"""
