"""Requests that schemathesis draws from our own OpenAPI file, good and bad ones."""

from __future__ import annotations

from collections import Counter
from typing import Any


def fuzz(port: int, count: int) -> tuple[Counter[int], list[str]]:
    """`count` requests to every operation: the statuses, and what was not as the file says."""
    import schemathesis
    from schemathesis import checks as known

    url = f"http://127.0.0.1:{port}"
    checks = [known.not_a_server_error, known.status_code_conformance, known.content_type_conformance, known.response_schema_conformance]
    statuses, faults = Counter[int](), list[str]()
    for found in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        for case in _draw(found.ok().as_strategy(), count):
            answer = case.call(base_url=url)
            statuses[answer.status_code] += 1
            try:
                case.validate_response(answer, checks=checks)
            except Exception as failed:  # one of several kinds, which have no common one
                faults.append(f"{case.method} {case.path}: {str(failed)[:200]}")
    return statuses, faults


def _draw(strategy: Any, count: int) -> list[Any]:
    from hypothesis import HealthCheck, Phase, given, settings

    drawn: list[Any] = []

    @settings(
        max_examples=count, phases=[Phase.generate], deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None
    )
    @given(strategy)
    def collect(case: Any) -> None:
        drawn.append(case)

    collect()
    return drawn
