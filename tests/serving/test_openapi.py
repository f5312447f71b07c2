"""What `/openapi.json` says is so: examples are accepted, answers have the described fields."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from smorm.serving.app import api_routes, routers
from tests.serving.servers import Running


def operations(server: Running) -> list[tuple[str, str, dict[str, Any]]]:
    """Method, path and description of every route."""
    description = server.client.get("/openapi.json").json()
    return [
        (method, path, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]


def test_every_route_is_described(server: Running) -> None:
    description = server.client.get("/openapi.json").json()
    schemas = description["components"]["schemas"]
    tags = [tag["name"] for tag in description["tags"]]
    for method, path, operation in operations(server):
        assert operation["summary"].endswith("."), path
        assert operation["tags"][0] in tags, path
        (media,) = operation["responses"]["200"]["content"].items()
        if path == "/metrics":
            assert media[0] == "text/plain"
        else:
            assert media[1]["schema"], path
        if path != "/livez":
            assert "401" in operation["responses"], path
        for status, response in operation["responses"].items():
            if status == "200" or path == "/readyz":
                continue
            error = response["content"]["application/json"]["example"]["error"]
            assert error["type"], path
            assert error["message"], path
            assert response["description"].endswith("."), path
        if method == "post":
            assert {"400", "413", "422", "500", "503", "504"} < set(operation["responses"]), path
    text = json.dumps(description)
    assert "HTTPValidationError" not in text
    for name in schemas:
        assert f'"#/components/schemas/{name}"' in text, f"{name} is used nowhere"


def test_examples_are_accepted_and_answers_have_the_described_fields(server: Running) -> None:
    description = server.client.get("/openapi.json").json()
    routes = {route.path: route for route in api_routes(routers(server.service))}
    answered = 0
    for method, path, operation in operations(server):
        if path == "/metrics":
            continue
        answer_of = TypeAdapter(routes[path].responses[200]["model"])
        if method == "get":
            check(answer_of, server.client.get(path).json(), path)
            continue
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        examples = description["components"]["schemas"][reference.split("/")[-1]]["examples"]
        for example in examples:
            check(answer_of, server.post(path, {**example, "model": "joint"}), path)
            answered += 1
    assert answered >= 12


def check(answer_of: TypeAdapter[Any], answer: Any, path: str) -> None:
    """No field that is not described, and none of those missing or of another type."""
    read = answer_of.validate_python(answer)
    assert answer_of.dump_python(read, mode="json", exclude_unset=True) == answer, path


def test_a_token_is_needed_where_the_description_says_so(server: Running) -> None:
    description = server.client.get("/openapi.json").json()
    assert description["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    free = [path for _, path, operation in operations(server) if operation.get("security") == []]
    assert free == ["/livez"]


def test_requests_are_counted_by_their_route(server: Running) -> None:
    server.client.get("/v1/models")
    server.client.get("/no/such/route")
    lines = server.client.get("/metrics").text.splitlines()
    counted = [line for line in lines if line.startswith("smorm_requests_total{")]
    for route in ("/v1/models", "other"):
        assert any(f'route="{route}"' in line for line in counted), route
    assert not any("such" in line for line in counted)


@pytest.mark.parametrize("path", ["/", "/docs", "/web/page.css", "/web/common.js"])
def test_pages_are_served_with_their_policy(server: Running, path: str) -> None:
    response = server.client.get(path)
    assert response.status_code == 200
    assert response.headers["content-security-policy"].startswith("default-src 'none'")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert "://" not in response.text.replace("http://www.w3.org/2000/svg", "")
