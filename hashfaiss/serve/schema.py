"""The service described as OpenAPI 3.1: what a test holds against the routes and against real answers."""

from __future__ import annotations

from typing import Any

import hashfaiss
from hashfaiss.serve.asked import PARAMETERS
from hashfaiss.serve.limits import Limits

INTEGER = {"type": "integer"}
SIDES = (160, 320, 1024)  # of thumbnails, pixels


def _object(required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {**required, **optional},
        "required": sorted(required),
        "additionalProperties": False,
    }


HIT = _object(
    {
        "id": INTEGER,
        "path": {"type": ["string", "null"], "description": "null for an image that was indexed from memory."},
        "distance": {**INTEGER, "description": "Hamming distance from the query's code."},
        "labels": {"type": "array", "items": {"type": "string"}},
    },
    code={"type": "string", "pattern": "^([0-9a-f]{2})+$", "description": "Packed, hexadecimal."},
)
ANSWER = _object(
    {
        "exact": {"type": "boolean", "description": "Certified to be what comparing with every code would find."},
        "code": {"type": "string", "description": "The query's, packed, hexadecimal."},
        "hits": {"type": "array", "items": HIT},
        "more": {**INTEGER, "description": "Images within the radius that are beyond the most an answer holds."},
    }
)
ANSWERS = _object({"generation": INTEGER, "bits": INTEGER, "answers": {"type": "array", "items": ANSWER}})
ERROR = _object({"error": {"type": "string", "description": "What was asked, what is the case, what to do."}})
INFO = {"type": "object", "required": ["images", "bits", "generation", "label_names", "limits"]}
IMAGES = _object({"images": {"type": "array", "items": HIT}, "total": INTEGER})
GROUPS = _object(
    {
        "groups": {"type": "array", "items": _object({"images": INTEGER, "hits": {"type": "array", "items": HIT}})},
        "more_groups": INTEGER,
    }
)
HEALTH = _object({"status": {"const": "ok"}, "generation": INTEGER})
PROGRESS = _object({"done": INTEGER, "of": INTEGER})


def _json(schema: dict[str, Any], about: str) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _responses(what: dict[str, Any], *statuses: str, **more: Any) -> dict[str, Any]:
    reasons = {
        "400": "The body is not what it should be.",
        "401": "The token is missing or wrong.",
        "403": "Asked from another page, or as another name of this machine.",
        "404": "There is no such image.",
        "408": "It took too long.",
        "413": "The body is too large.",
        "415": "A content type that is not taken.",
        "422": "A value that is not what it may be, or an image that cannot be read.",
        "503": "Too much is asked for just now: Retry-After says when to come again.",
    }
    refused = {status: _json(ERROR, reasons[status]) for status in ("401", "403", "408", "503", *statuses)}
    return {"200": what, **more, **dict(sorted(refused.items()))}


def _parameter(name: str, schema: dict[str, Any], about: str, where: str = "query") -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "description": about, "schema": schema}


def _search(limits: Limits) -> dict[str, Any]:
    options = {name: parameter.schema for name, parameter in PARAMETERS.items()}
    options["k"] = {**PARAMETERS["k"].schema, "maximum": limits.k}
    code = {"type": "string", "pattern": "^([0-9a-f]{2})+$"}
    body = {
        "type": "object",
        "properties": {
            "id": {**INTEGER, "description": "Of an image of the index: its stored code is asked with."},
            "path": {"type": "string", "description": "As hits have it; no file is looked at."},
            "code": {**code, "description": "Packed, hexadecimal, bit j at bit j % 8 of byte j // 8."},
            "codes": {"type": "array", "items": code, "minItems": 1, "maxItems": limits.codes},
            **options,
        },
        "oneOf": [{"required": [name]} for name in ("id", "path", "code", "codes")],
        "additionalProperties": False,
    }
    image = {"schema": {"type": "string", "contentMediaType": "image/*", "maxLength": limits.upload_bytes}}
    return {
        "summary": "Find the images nearest to an image or to codes.",
        "description": "An image is sent as the body, its options in the query string; all else is sent as JSON.",
        "parameters": [
            _parameter(name, options[name], f"{parameter.about} With an image as the body.")
            for name, parameter in PARAMETERS.items()
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": body},
                "image/*": image,
                "application/octet-stream": image,
            },
        },
        "responses": _responses(_json(ANSWERS, "One answer for each query."), "400", "404", "413", "415", "422"),
    }


def openapi(limits: Limits, secured: bool) -> dict[str, Any]:
    """The description; `secured` where a token is needed."""
    number = _parameter("id", INTEGER, "Of an image of the index, as hits have it.", "path")
    side = _parameter("side", {"enum": list(SIDES)}, "Longest side in pixels.")
    radius = _parameter("radius", {"type": "integer", "minimum": 0}, "Hamming distance up to which codes are near.")
    first = _parameter("first", {"type": "integer", "minimum": 0}, "Place of the first image, by id.")
    most = _parameter("most", {"type": "integer", "minimum": 1, "maximum": 500}, "How many images.")
    picture = {"description": "A JPEG file.", "content": {"image/jpeg": {}}}

    def get(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
        return {"get": {"summary": summary, "parameters": list(parameters), "responses": responses}}

    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "hashfaiss",
            "version": hashfaiss.__version__,
            "summary": "An index of images, by Hamming distance.",
        },
        "paths": {
            "/search": {"post": _search(limits)},
            "/images": get("Images of the index.", _responses(_json(IMAGES, "By id."), "422"), first, most),
            "/image/{id}": get(
                "An image's file.",
                _responses({"description": "Its bytes.", "content": {"image/*": {}}}, "404", "422"),
                number,
            ),
            "/thumbnail/{id}": get("A small picture of an image.", _responses(picture, "404", "422"), number, side),
            "/duplicates": get(
                "Groups of near-duplicates.",
                _responses(
                    _json(GROUPS, "The groups."), "422", **{"202": _json(PROGRESS, "They are being found: ask again.")}
                ),
                radius,
            ),
            "/info": get("Facts of the index.", _responses(_json(INFO, "See `hashfaiss info`."))),
            "/healthz": get("Whether the service answers.", {"200": _json(HEALTH, "It does.")}),
            "/metrics": get(
                "Numbers for Prometheus.", _responses({"description": "Text.", "content": {"text/plain": {}}})
            ),
            "/openapi.json": get("This.", _responses(_json({"type": "object"}, "OpenAPI 3.1."))),
        },
    }
    if secured:
        described["components"] = {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
        described["security"] = [{"token": []}]
    return described
