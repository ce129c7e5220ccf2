"""The OpenAPI file says what is true: of the routes, and of the answers."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
from fake_service import FakeService
from loopback import Served
from starlette.routing import Route

from trimodal.serving.http.app import make_app
from trimodal.serving.http.openapi import write_openapi
from trimodal.serving.http.settings import Settings


def test_file_has_every_route_and_no_other() -> None:
    guards: Any = make_app(FakeService(), Settings())
    routes = {
        (route.path, method.lower())
        for route in guards.inner.routes
        if isinstance(route, Route)
        for method in route.methods or ()
        if method != "HEAD"
    }
    paths = write_openapi(FakeService().list_models())["paths"]
    assert routes == {(path, method) for path, operations in paths.items() for method in operations}


def test_schemas_are_schemas() -> None:
    file = write_openapi(FakeService().list_models(), needs_key=True)
    for schema in file["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    assert file["security"] == [{"key": []}]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["served", "real"])
def test_schemathesis_finds_no_fault(which: str, request: pytest.FixtureRequest) -> None:
    served: Served = request.getfixturevalue(which)
    import schemathesis
    from schemathesis import checks as known

    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    checks = [known.not_a_server_error, known.status_code_conformance, known.content_type_conformance, known.response_schema_conformance]
    for found in schema.get_all_operations():
        operation = found.ok()
        for case in _draw_cases(operation.as_strategy(), 25):
            case.call_and_validate(base_url=served.url, checks=checks)


def _draw_cases(strategy: Any, count: int) -> list[Any]:
    from hypothesis import HealthCheck, Phase, given, settings

    drawn: list[Any] = []

    @settings(
        max_examples=count,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
    @given(strategy)
    def collect(case: Any) -> None:
        drawn.append(case)

    collect()
    return drawn
