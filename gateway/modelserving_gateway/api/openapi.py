"""The OpenAPI document of what the gateway serves: its paths, its own errors, its own headers.

Pure. What engines answer is theirs and has no schema here: it differs between their versions. A
test holds the statuses against errors.py, another one the whole against a running gateway.
Source: OpenAPI 3.1.
"""

from typing import Any, Final

from modelserving_gateway.api.errors import Dialect
from modelserving_gateway.api.surface import FORWARDED, PAGES, Form, Forwarded, Page

_Json = dict[str, Any]

_ERRORS: Final = {
    400: "The request is not understood (`invalid_body`, `invalid_header`, `malformed_request`), or"
    " the model serves no such path (`unsupported_by_model`).",
    401: "An API key is needed and none that is valid was sent (`invalid_api_key`).",
    403: "The API key may not use this model (`model_not_allowed`).",
    404: "No such model is declared (`model_not_found`), or nothing is served (`unknown_url`).",
    405: "Another method is needed, see `Allow` (`method_not_allowed`).",
    408: "The request did not arrive in time (`headers_too_slow`, `body_too_slow`).",
    409: "The request refuses a swap, and the model is not active (`model_not_active`).",
    413: "The body is too large (`body_too_large`).",
    415: "The body is in a form or compression that is not read here (`unsupported_media_type`,"
    " `unsupported_content_encoding`).",
    429: "Too much at once: for one model (`queue_full`), for this gateway (`bodies_full`), or for"
    " the API key (`rate_limit_exceeded`, `too_many_in_flight`).",
    431: "The headers are too large (`headers_too_large`).",
    500: "A defect of the gateway (`internal_error`).",
    502: "The engine was lost before (`upstream_failed`) or amid (`upstream_lost`) its answer,"
    " or the answer does not fit into an event (`answer_too_large`).",
    503: "The model cannot answer now: it did not get its turn in time (`model_not_ready_in_time`,"
    " `model_busy`), failed to load (`model_load_failed`), is kept out by a pin (`model_pinned`),"
    " or what declares it is invalid (`model_serving_invalid`) or gone (`model_serving_deleted`)."
    " Or the gateway starts (`gateway_starting`), ends (`shutting_down`), has all the connections"
    " that it may have (`too_many_connections`), or cannot read its API keys (`keys_unreadable`).",
    504: "The engine was silent for too long (`upstream_timeout`).",
}

_NO_REQUEST_YET: Final = (400, 408, 431, 503)
"""The HTTP server itself may have them, for a request that has not come far enough for an id."""

_FORWARDED_ERRORS: Final = tuple(_ERRORS)
_PAGE_ERRORS: Final = (*_NO_REQUEST_YET, 405, 500)
_LIST_ERRORS: Final = (*_PAGE_ERRORS, 401)
_MODEL_ERRORS: Final = (*_LIST_ERRORS, 403, 404)

_ENGINES_OWN: Final = {
    422: "The engine does not accept the request; its own answer.",
    501: "The engine does not implement what is asked for; its own answer.",
}
"""Statuses of vLLM that the gateway itself never has. Others may be the engine's too."""

_SUMMARIES: Final = {
    "/v1/chat/completions": "Chat completion",
    "/v1/completions": "Text completion",
    "/v1/responses": "Response (OpenAI's Responses API)",
    "/v1/embeddings": "Embeddings",
    "/v1/rerank": "Rerank documents",
    "/v2/rerank": "Rerank documents (Cohere's v2)",
    "/v1/score": "Score pairs of texts",
    "/tokenize": "Text to tokens",
    "/detokenize": "Tokens to text",
    "/v1/audio/transcriptions": "Speech to text",
    "/v1/audio/translations": "Speech to English text",
    "/v1/messages": "Message (Anthropic's API)",
    "/v1/messages/count_tokens": "Number of tokens of a message (Anthropic's API)",
}

_PAGE_SUMMARIES: Final = {
    Page.MODELS: "Every declared model and alias that the caller may use, with its state",
    Page.STATUS: "What is active, wanted and held",
    Page.HEALTH: "Whether the process is alive",
    Page.READY: "Whether requests are answered",
    Page.METRICS: "Metrics for Prometheus",
    Page.OPENAPI: "This document",
}

_REQUEST_HEADERS: Final = {
    "Priority": (
        {"type": "string", "enum": ["high", "normal", "low"]},
        "How urgent the request is, at most what the API key allows.",
    ),
    "Swap": (
        {"type": "string", "enum": ["allow", "never"]},
        "`never`: 409 instead of waiting for a model that is not active.",
    ),
    "Fallback": (
        {"type": "string", "pattern": r"[^\s,]"},
        "1 to 16 models, with commas, that do as well while the one asked for is not active, or `*`"
        " for any.",
    ),
    "Hold-Seconds": (
        {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"},
        "How long the request may be held, if less than the gateway would.",
    ),
}

_REQUEST_ID: Final = {
    "description": "The client's own X-Request-Id where it is sound, else a new one.",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}

_RETRY_AFTER: Final = {
    "description": "In how many seconds to try again.",
    "schema": {"type": "string", "pattern": "^([1-9]|[1-5][0-9]|60)$"},
}


def document(*, keys: bool, version: str) -> _Json:
    """Return the document, JSON-ready; `keys`: whether API keys are needed."""
    paths = {path: {"post": _forwarded(path, each)} for path, each in FORWARDED.items()}
    pages = {path: _read_only(path, page) for path, page in PAGES.items()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ModelServing gateway",
            "version": version,
            "description": "One endpoint for every model that the ModelServings of a namespace"
            " declare. A request for a model that is not active is held until it is. What an"
            " engine answers is passed on as it is.",
        },
        "paths": {**paths, **pages, **_one_model()},
        "components": {"schemas": _SCHEMAS, "securitySchemes": _SECURITY_SCHEMES},
        **({"security": [{"bearer": []}, {"xApiKey": []}]} if keys else {}),
    }


def _forwarded(path: str, forwarded: Forwarded) -> _Json:
    error = "AnthropicError" if forwarded.dialect is Dialect.ANTHROPIC else "Error"
    own = {str(status): _answer(text, f"{error}OfEngine") for status, text in _ENGINES_OWN.items()}
    return {
        "operationId": _operation_id("post", path),
        "summary": _SUMMARIES[forwarded.path],
        "parameters": [
            {
                "name": f"X-ModelServing-{name}",
                "in": "header",
                "schema": schema,
                "description": description,
            }
            for name, (schema, description) in _REQUEST_HEADERS.items()
        ],
        "requestBody": {
            "required": True,
            "description": "May be compressed: Content-Encoding gzip or deflate.",
            "content": {forwarded.form.value: {"schema": _request_schema(forwarded.form)}},
        },
        "responses": {
            "200": _engines_answer(forwarded),
            **_errors(_FORWARDED_ERRORS, error, engine_too=True),
            **own,
        },
    }


def _engines_answer(forwarded: Forwarded) -> _Json:
    content: _Json = {"application/json": {"schema": {}}}
    if forwarded.streams:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if forwarded.form is Form.MULTIPART:
        content["text/plain"] = {"schema": {"type": "string"}}
    return {
        "description": "The engine's answer. Its `model` is the name that was asked for.",
        "headers": {
            "X-Request-Id": _REQUEST_ID,
            "X-ModelServing-Model": {
                "description": "The declared name of the model that has answered.",
                "required": True,
                "schema": {"type": "string"},
            },
            "X-ModelServing-Held-Seconds": {
                "description": "How long the request was held, if it was.",
                "schema": {"type": "string", "pattern": r"^[0-9]+\.[0-9]{3}$"},
            },
        },
        "content": content,
    }


def _request_schema(form: Form) -> _Json:
    schema: _Json = {
        "type": "object",
        "required": ["model"],
        "properties": {"model": {"type": "string", "minLength": 1}},
        "additionalProperties": True,
        "description": "All else is the engine's, and reaches it byte for byte.",
    }
    if form is Form.MULTIPART:
        schema["properties"]["file"] = {"type": "string", "contentMediaType": "audio/*"}
    return schema


def _read_only(path: str, page: Page) -> _Json:
    needs_key = page in (Page.MODELS, Page.STATUS)
    operation: _Json = {
        "summary": _PAGE_SUMMARIES[page],
        "responses": {
            "200": _page_answer(page),
            **_errors(_LIST_ERRORS if needs_key else _PAGE_ERRORS, "Error"),
        },
    }
    if page is Page.READY:
        operation["responses"]["503"] = _answer("Not now; `status` says why.", "State")
    if not needs_key:
        operation["security"] = []
    return _get_and_head(path, operation)


def _page_answer(page: Page) -> _Json:
    if page is Page.METRICS:
        content = {"text/plain": {"schema": {"type": "string"}}}
        return {**_answer("In Prometheus' text format.", "Object"), "content": content}
    schemas = {Page.MODELS: "ModelList", Page.HEALTH: "State", Page.READY: "State"}
    return _answer("As it is now.", schemas.get(page, "Object"))


def _one_model() -> _Json:
    path = "/models/{model}"
    operation = {
        "summary": "One model or alias, with its state",
        "parameters": [
            {
                "name": "model",
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
            }
        ],
        "responses": {
            "200": _answer("As it is now.", "Model"),
            **_errors(_MODEL_ERRORS, "Error"),
        },
    }
    return {each: _get_and_head(each, operation) for each in ("/v1" + path, path)}


def _get_and_head(path: str, operation: _Json) -> _Json:
    head = {
        "responses": {
            status: {key: value for key, value in answer.items() if key != "content"}
            for status, answer in operation["responses"].items()
        }
    }
    return {
        "get": {"operationId": _operation_id("get", path), **operation},
        "head": {"operationId": _operation_id("head", path), **operation, **head},
    }


def _errors(statuses: tuple[int, ...], schema: str, *, engine_too: bool = False) -> _Json:
    answers: _Json = {}
    for status in statuses:
        answer = _answer(_ERRORS[status], schema)
        if engine_too:
            answer["description"] += " Or the engine's own error."
            own = answer["content"]["application/json"]["schema"]
            engines = {"$ref": f"#/components/schemas/{schema}OfEngine"}
            answer["content"]["application/json"]["schema"] = {"anyOf": [own, engines]}
        if status in (429, 503):
            answer["headers"]["Retry-After"] = _RETRY_AFTER
        if status in _NO_REQUEST_YET:
            answer["headers"]["X-Request-Id"] = {**_REQUEST_ID, "required": False}
        answers[str(status)] = answer
    return answers


def _answer(description: str, schema: str) -> _Json:
    return {
        "description": description,
        "headers": {"X-Request-Id": _REQUEST_ID},
        "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _operation_id(method: str, path: str) -> str:
    words = path.replace("{", "").replace("}", "").replace(".", "_").split("/")
    return "_".join((method, *(word for word in words if word)))


def _error_fields(types: list[str]) -> _Json:
    return {
        "type": "object",
        "required": ["message", "type", "param", "code"],
        "properties": {
            "message": {"type": "string", "minLength": 1},
            "type": {"type": "string", "enum": types},
            "param": {"type": ["string", "null"]},
            "code": {"type": "string", "description": "What it is, for programs."},
        },
    }


_ENGINES_FIELDS: Final[_Json] = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}},
}

_SCHEMAS: Final[_Json] = {
    "ErrorOfEngine": {
        "type": "object",
        "description": "An engine's error in OpenAI's shape; its fields are the engine's.",
        "required": ["error"],
        "properties": {"error": _ENGINES_FIELDS},
    },
    "AnthropicErrorOfEngine": {
        "type": "object",
        "description": "An engine's error in Anthropic's shape; its fields are the engine's.",
        "required": ["type", "error"],
        "properties": {"type": {"const": "error"}, "error": _ENGINES_FIELDS},
    },
    "Error": {
        "type": "object",
        "description": "An error in OpenAI's shape.",
        "required": ["error"],
        "properties": {
            "error": _error_fields(["invalid_request_error", "rate_limit_error", "server_error"])
        },
    },
    "AnthropicError": {
        "type": "object",
        "description": "An error in Anthropic's shape.",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": _error_fields(
                [
                    "invalid_request_error",
                    "authentication_error",
                    "permission_error",
                    "not_found_error",
                    "request_too_large",
                    "rate_limit_error",
                    "api_error",
                    "overloaded_error",
                ]
            ),
        },
    },
    "Model": {
        "type": "object",
        "description": "OpenAI's model object, and what the ModelServings say of it.",
        "required": ["id", "object", "created", "owned_by", "modelserving"],
        "properties": {
            "id": {"type": "string"},
            "object": {"const": "model"},
            "created": {"type": "integer"},
            "owned_by": {"type": "string"},
            "modelserving": {"type": "object", "required": ["name", "state", "active", "servings"]},
        },
    },
    "ModelList": {
        "type": "object",
        "required": ["object", "data"],
        "properties": {
            "object": {"const": "list"},
            "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}},
        },
    },
    "State": {
        "type": "object",
        "required": ["status"],
        "properties": {"status": {"type": "string"}},
    },
    "Object": {"type": "object"},
}

_SECURITY_SCHEMES: Final[_Json] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "xApiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
