"""The gateway answers as its OpenAPI document says, and with no 500, whatever is sent."""

import asyncio
import inspect
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from hashlib import sha256
from typing import Any, get_type_hints

import hypothesis
import pytest
import schemathesis
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.checks import ignored_auth, negative_data_rejection

from modelserving_gateway.api import errors, openapi
from modelserving_gateway.api.errors import ApiError
from modelserving_gateway.api.surface import FORWARDED, PAGES
from tests.unit.gateway.conftest import running
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, serving, stream

DOCUMENT = openapi.document(keys=True, version="0")


def own_errors() -> Iterator[ApiError]:
    """Every error that errors.py can make, with arguments made up by their types."""
    made_up = {str: "x", int: 1, float: 1.0, bool: True, tuple: ("x",)}
    for name, function in inspect.getmembers(errors, inspect.isfunction):
        hints = get_type_hints(function)
        if hints.pop("return", None) is not ApiError or name == "engine_error":
            continue
        yield function(
            **{
                key: made_up.get(getattr(hint, "__origin__", hint), "x")
                for key, hint in hints.items()
            }
        )


def test_every_error_of_the_gateway_is_in_the_document_and_no_other() -> None:
    answers = DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"]
    documented = {
        (int(status), code)
        for status, answer in answers.items()
        for code in re.findall(r"`([a-z]+_[a-z_]+)`", answer["description"])
    }
    assert documented == {(error.status, error.code) for error in own_errors()}


def test_every_path_that_is_served_is_in_the_document_and_no_other() -> None:
    one_model = {"/models/{model}", "/v1/models/{model}"}
    assert DOCUMENT["paths"].keys() == FORWARDED.keys() | PAGES.keys() | one_model


def test_operations_have_names_of_their_own() -> None:
    names = [
        operation["operationId"]
        for path in DOCUMENT["paths"].values()
        for operation in path.values()
    ]
    assert len(set(names)) == len(names)


def test_keys_are_asked_for_only_where_they_are_needed() -> None:
    assert "security" not in openapi.document(keys=False, version="0")
    assert DOCUMENT["security"]
    free = {path for path in PAGES if DOCUMENT["paths"][path]["get"].get("security") == []}
    assert free == {"/healthz", "/readyz", "/metrics", "/openapi.json"}


@pytest.mark.parametrize("error", list(own_errors()), ids=lambda error: error.code)
def test_errors_have_the_documented_shape(error: ApiError) -> None:
    schemas = DOCUMENT["components"]["schemas"]
    for dialect, name in (
        (errors.Dialect.OPENAI, "Error"),
        (errors.Dialect.ANTHROPIC, "AnthropicError"),
    ):
        Draft202012Validator(schemas[name]).validate(json.loads(error.body(dialect)))


async def answering(connection: Connection) -> None:
    body = connection.request.body
    if b'"stream": true' in body or b'"stream":true' in body:
        await stream(connection)
    else:
        await connection.answer(b'{"model":"mistral"}')


@contextmanager
def live(**settings: Any) -> Iterator[str]:
    """A gateway with an engine, served by a thread of its own; yields its URL."""
    started = threading.Event()
    address: list[str] = []
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        engine = await Engine(answering).start()
        cluster = FakeCluster(serving(active="mistral", endpoint=engine.url))
        async with running(cluster, body_timeout_seconds=1, **settings) as gateway:
            async with asyncio.timeout(5):
                while (await gateway.client.get("/readyz")).status_code != 200:
                    pass
            address.append(f"http://127.0.0.1:{gateway.gateway.port}")
            started.set()
            await stop.wait()
        await gateway.task
        await engine.stop()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield address[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


KEY = "ms-key"


def with_models_known(*, keys: bool) -> Any:
    """The document for schemathesis, which cannot know what the models are called."""
    document = deepcopy(openapi.document(keys=keys, version="0"))
    for path in FORWARDED:
        content = document["paths"][path]["post"]["requestBody"]["content"]
        for form in content.values():
            form["schema"]["properties"]["model"]["enum"] = ["mistral", "gpt-4"]
    return schemathesis.openapi.from_dict(document)


everything = (
    with_models_known(keys=False)
    .include(path_regex=r"^/v1/|^/v2/|^/[a-z.]+$")
    .exclude(
        # The same as under /v1; test_surface.py shows that.
        path_regex=r"^/(completions|responses|embeddings|rerank|score|messages|models|v1/(de)?tokenize)$"
    )
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with live() as address:
        yield address


each_operation: Decorator = everything.parametrize()


@each_operation
@hypothesis.settings(max_examples=5)
def test_the_gateway_answers_as_the_document_says(case: schemathesis.Case[Any], url: str) -> None:
    case.call_and_validate(base_url=url)


of_each_kind = with_models_known(keys=True).include(
    path_regex=r"^/v1/(chat/completions|messages|audio/translations|models.*)$|^/status$"
)


@pytest.fixture(scope="module")
def url_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    file.write_text(json.dumps([{"name": "k", "sha256": sha256(KEY.encode()).hexdigest()}]))
    with live(keys_file=str(file)) as address:
        yield address


one_operation_of_each_kind: Decorator = of_each_kind.parametrize()


@one_operation_of_each_kind
@hypothesis.settings(max_examples=5)
def test_with_keys_nobody_gets_in_without_one(
    case: schemathesis.Case[Any], url_with_keys: str
) -> None:
    """Whatever else a request says; schemathesis' own check confuses our key with one it made."""
    for key, expected in ((KEY, {200, 400, 404, 405, 415}), ("other", {401, 405})):
        answer = case.call(base_url=url_with_keys, headers={"authorization": f"Bearer {key}"})
        assert answer.status_code in expected
        case.validate_response(answer, excluded_checks=[ignored_auth, negative_data_rejection])
