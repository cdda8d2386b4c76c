"""The service keeps to its OpenAPI document, over many generated requests."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import AUTHORIZED

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
FEW = settings(
    max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
)


def test_what_it_answers_when_all_is_well_is_as_promised(client, pagoda):
    schema = schemathesis.openapi.from_url(f"{str(client.base_url).rstrip('/')}/v1/openapi.json")
    number = client.get("/v1/pictures?limit=1").json()["pictures"][0]["id"]
    for path, method, more in (
        ("/v1/search", "POST", {"body": pagoda, "media_type": "image/jpeg"}),
        ("/v1/pictures/{id}", "GET", {"path_parameters": {"id": number}}),
        ("/v1/pictures/{id}/search", "GET", {"path_parameters": {"id": number}}),
        ("/v1/pictures/{id}/match", "GET", {"path_parameters": {"id": number}, "query": {"query": number}}),
    ):
        case = schema[path][method].Case(**more)
        response = case.call(headers=AUTHORIZED)
        assert response.status_code == 200
        case.validate_response(response, checks=CHECKS)


def test_no_request_makes_it_fail_or_answer_what_it_did_not_promise(client):
    schema = schemathesis.openapi.from_url(f"{str(client.base_url).rstrip('/')}/v1/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == 18
    for operation in operations:

        @FEW
        @given(case=operation.as_strategy())
        def holds(case):
            case.validate_response(case.call(headers=AUTHORIZED, timeout=120), checks=CHECKS)

        holds()
