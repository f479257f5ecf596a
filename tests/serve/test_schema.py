"""/openapi.json is what the service does: its routes, its parameters, and what it answers."""

from __future__ import annotations

import jsonschema
import pytest
from openapi_spec_validator import validate

from hashfaiss.serve.asked import PARAMETERS
from hashfaiss.serve.limits import Limits
from hashfaiss.serve.schema import openapi

UNDESCRIBED = {"/", "/page.css", "/page.js", "/mark.svg", "/login"}  # the page's own


@pytest.mark.parametrize("secured", [True, False])
def test_it_is_openapi(secured):
    validate(openapi(Limits(), secured))


def test_it_has_the_routes_that_there_are(client):
    described = client.get("/openapi.json").json()["paths"]
    routes = {(route.path, method) for route in client.app.routes for method in route.methods - {"HEAD"}}
    expected = {(path, method.upper()) for path, methods in described.items() for method in methods}
    assert {(path, method) for path, method in routes if path not in UNDESCRIBED} == expected


def schema_of(described, path, method, status):
    return described["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]


def test_answers_are_as_described(client):
    described = client.get("/openapi.json").json()
    asked = [
        ("get", "/info", "/info", {}),
        ("get", "/images", "/images?first=3&most=5", {}),
        ("get", "/healthz", "/healthz", {}),
        ("get", "/duplicates", "/duplicates?radius=8", {}),
        ("post", "/search", "/search", {"json": {"id": 1, "k": 3}}),
        ("post", "/search", "/search", {"json": {"id": 1, "k": -3}}),
        ("post", "/search", "/search", {"json": {"id": 77}}),
        ("post", "/search", "/search", {"content": b"x", "headers": {"Content-Type": "text/plain"}}),
        ("get", "/image/{id}", "/image/77", {}),
        ("get", "/image/{id}", "/image/x", {}),
        ("get", "/thumbnail/{id}", "/thumbnail/77", {}),
        ("get", "/thumbnail/{id}", "/thumbnail/1?side=7", {}),
    ]
    for method, path, url, how in asked:
        answer = getattr(client, method)(url, **how)
        jsonschema.validate(answer.json(), schema_of(described, path, method, answer.status_code))


def test_the_bodies_that_are_described_are_those_that_are_taken(client):
    body = client.get("/openapi.json").json()["paths"]["/search"]["post"]["requestBody"]["content"]
    schema = body["application/json"]["schema"]
    for asked in (
        {"id": 1},
        {"id": 1, "k": 1, "label": ["cat"], "exact": False},
        {"code": "000000", "radius": 0},
        {"codes": ["000000"], "under": ["*"]},
        {"id": 1, "k": 0},
        {"id": 1, "k": 1001},
        {"id": 1, "path": "x"},
        {},
        {"id": 1, "x": 1},
        {"id": "1"},
        {"code": "0"},
        {"id": 1, "label": []},
    ):
        fits = jsonschema.Draft202012Validator(schema).is_valid(asked)
        assert (client.post("/search", json=asked).status_code == 200) == fits, asked
    names = {one["name"] for one in client.get("/openapi.json").json()["paths"]["/search"]["post"]["parameters"]}
    assert names == set(PARAMETERS) == schema["properties"].keys() - {"id", "path", "code", "codes"}


def test_parameters_are_those_that_are_described(client):
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for one in methods.get("get", {}).get("parameters", []):
            if one["in"] == "query":
                url = path.replace("{id}", "1")
                right = one["schema"].get(
                    "minimum", one["schema"].get("enum", [0])[0] if "enum" in one["schema"] else 0
                )
                assert client.get(url, params={one["name"]: right}).status_code in (200, 202)
                assert client.get(url, params={one["name"]: "x"}).status_code == 422
        if "get" in methods and path != "/healthz" and path not in ("/metrics", "/openapi.json"):
            assert client.get(path.replace("{id}", "1"), params={"unknown": 1}).status_code == 422
