"""The app on a real port, with a service without models."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake_service import FakeService
from loopback import Served

from trimodal.serving.http.app import make_app
from trimodal.serving.http.settings import Settings


@pytest.fixture(scope="module")
def fake() -> FakeService:
    return FakeService()


@pytest.fixture(scope="module")
def served(fake: FakeService) -> Iterator[Served]:
    one = Served(make_app(fake, Settings()))
    yield one
    one.close()
