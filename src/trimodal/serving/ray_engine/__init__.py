"""The same application on Ray Serve: replicas on one or many machines, which Ray starts, watches, scales and balances between.

Ray is 480 MB and lives in an environment of its own (`make ray`, or `TRIMODAL_RAY_PYTHON`); only `deployment.py` and `driver.py` import it.
"""
