"""What the paths take, as an OpenAPI document made from the bodies' own types.

    document(app) -> dict        what GET /openapi.json answers
    router(app)

Paths that only say why they do nothing are left out.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from evolute.server.anthropic.body import CountBody, MessagesBody
from evolute.server.limits import UPLOADS
from evolute.server.native.routes import BODIES as NATIVE
from evolute.server.native.routes import SAMPLING
from evolute.server.openai.bodies import ChatBody, CompletionBody
from evolute.server.openai.responses.body import ResponseBody

BODIES: dict[str, type[BaseModel]] = {
    "/v1/completions": CompletionBody,
    "/v1/chat/completions": ChatBody,
    "/v1/responses": ResponseBody,
    "/v1/responses/input_tokens": ResponseBody,
    "/v1/messages": MessagesBody,
    "/v1/messages/count_tokens": CountBody,
    **NATIVE,
}
QUERY = {"/flush_cache": {"timeout": {"type": "number", "minimum": 0, "maximum": 600}}}
ERRORS = {
    "400": "the request cannot be served as it is; the message says what to change",
    "401": "no valid API key",
    "404": "no such model, adapter or path",
    "408": "the body did not come",
    "413": "the body is too large",
    "429": "the tenant's limits are reached; Retry-After says when to come back",
    "501": "pictures or sounds, which a model of text does not read",
    "503": "not now; Retry-After says when to come back",
}
ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}


def document(app: FastAPI) -> dict[str, Any]:
    """The document of all paths that `app` has now."""
    found = get_openapi(title="Evolute", version=version("evolute"), routes=app.routes)
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            _describe(path, method, operation)
    found["components"] = {
        "schemas": {"Error": ERROR},
        "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
    }
    return found


def router(app: FastAPI) -> APIRouter:
    router = APIRouter()

    @router.get("/openapi.json", include_in_schema=False)
    async def answer() -> JSONResponse:
        return JSONResponse(document(app))

    return router


# -- internals ---------------------------------------------------------------


def _describe(path: str, method: str, operation: dict[str, Any]) -> None:
    responses: dict[str, Any] = {"200": {"description": "the answer"}}
    shape = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    for status, text in ERRORS.items():
        responses[status] = {"description": text} | ({"content": shape} if status != "503" else {})
    operation["responses"] = responses
    operation["parameters"] = operation.get("parameters", []) + [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in QUERY.get(path, {}).items()
    ]
    if path in BODIES and method in ("post", "put"):
        content: dict[str, Any] = {"application/json": {"schema": _schema(BODIES[path])}}
        if path in UPLOADS:
            content["application/octet-stream"] = {"schema": {"type": "string", "format": "binary"}}
        operation["requestBody"] = {"required": True, "content": content}


def _schema(body: type[BaseModel]) -> dict[str, Any]:
    schema = body.model_json_schema()
    schema = dict(_inlined(schema, schema.pop("$defs", {})))
    if body in SAMPLING:
        one = _schema(SAMPLING[body])
        schema["properties"]["sampling_params"] = {
            "anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]
        }
    return schema


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """`node` without references, which would have to lie elsewhere in the document."""
    if isinstance(node, list):
        return [_inlined(one, definitions) for one in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
    return {key: _inlined(value, definitions) for key, value in node.items()}
