"""The service over HTTP: an ASGI app on Starlette, with guards of its own around it.

    server ──> guards (headers, host, key) ──> route ──> body (bytes, time, encoding) ──> codec ──> service

`app.py` has all routes; `openapi.py` says of each what it takes and answers.
"""
