"""What the OpenAPI document promises, held against many generated requests."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import AUTHORIZED

schema = schemathesis.pytest.from_fixture("api")


@pytest.fixture(scope="module")
def api(client):
    return schemathesis.openapi.from_url(f"{str(client.base_url).rstrip('/')}/v1/openapi.json")


@schema.parametrize()
@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)
def test_no_request_makes_it_fail_or_answer_what_it_did_not_promise(case):
    response = case.call(headers=AUTHORIZED)
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
