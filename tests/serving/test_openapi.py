"""Whatever fits the OpenAPI document, or does not, is answered as the document says: never a 5xx but 503, never silence.

``POISE_EXAMPLES=500`` makes a longer run of it.
"""

from __future__ import annotations

import os

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving.place import ROUTES, Place, listening, model

EXAMPLES = int(os.environ.get("POISE_EXAMPLES", "3"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture(scope="module")
def address():
    place = Place({"rm": model("drpo")}, body_bytes=100_000)
    with listening(place) as url:
        yield url


@pytest.fixture(scope="module")
def document(address):
    return schemathesis.openapi.from_url(f"{address}/openapi.json")


OPERATIONS = [("POST", path) for path in ROUTES]
OPERATIONS += [("GET", path) for path in ("/v1/models", "/health", "/ready", "/metrics", "/info")]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_answers_are_those_of_the_document(document, method, path):
    modes = [GenerationMode.POSITIVE] if method == "GET" else [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]

    for mode in modes:

        @given(document[path][method].as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES if method == "POST" else 2,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        def fits(case):
            case.validate_response(case.call(timeout=20), checks=CHECKS)

        fits()


def test_every_route_and_schema_is_in_the_document(document):
    paths = set(document.raw_schema["paths"])
    assert {"/v1/rewards", "/classify", "/pooling", "/v1/embeddings", "/get_reward", "/predict"} <= paths
    assert {"/v1/score/evaluation", "/v1/models", "/health", "/ready", "/metrics", "/info"} <= paths
    for path in ("/v1/rewards", "/classify"):
        refused = document.raw_schema["paths"][path]["post"]["responses"]
        assert {"400", "401", "404", "408", "413", "422", "503"} <= set(refused)
