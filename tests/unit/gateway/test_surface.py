"""What is served, route by route of vLLM's: forwarded, answered by the gateway, or not found."""

from collections.abc import Callable
from contextlib import suppress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.errors import ApiError, Dialect
from modelserving_gateway.api.surface import Form, Forwarded, OneModel, Page, dialect_of, route

JSON, FORM = Form.JSON, Form.MULTIPART
OPENAI, ANTHROPIC = Dialect.OPENAI, Dialect.ANTHROPIC

FORWARDED = {
    "/v1/chat/completions": Forwarded("/v1/chat/completions", JSON, OPENAI, streams=True),
    "/v1/completions": Forwarded("/v1/completions", JSON, OPENAI, streams=True),
    "/v1/responses": Forwarded("/v1/responses", JSON, OPENAI, streams=True),
    "/v1/embeddings": Forwarded("/v1/embeddings", JSON, OPENAI, streams=False),
    "/v1/rerank": Forwarded("/v1/rerank", JSON, OPENAI, streams=False),
    "/rerank": Forwarded("/v1/rerank", JSON, OPENAI, streams=False),
    "/v2/rerank": Forwarded("/v2/rerank", JSON, OPENAI, streams=False),
    "/v1/score": Forwarded("/v1/score", JSON, OPENAI, streams=False),
    "/score": Forwarded("/v1/score", JSON, OPENAI, streams=False),
    "/tokenize": Forwarded("/tokenize", JSON, OPENAI, streams=False),
    "/detokenize": Forwarded("/detokenize", JSON, OPENAI, streams=False),
    "/v1/audio/transcriptions": Forwarded("/v1/audio/transcriptions", FORM, OPENAI, streams=True),
    "/v1/audio/translations": Forwarded("/v1/audio/translations", FORM, OPENAI, streams=True),
    "/v1/messages": Forwarded("/v1/messages", JSON, ANTHROPIC, streams=True),
    "/v1/messages/count_tokens": Forwarded(
        "/v1/messages/count_tokens", JSON, ANTHROPIC, streams=False
    ),
}

NOT_SERVED = [
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/messages/render",
    "/v1/responses/render",
    "/v1/responses/resp_1",
    "/v1/responses/resp_1/cancel",
    "/v1/realtime",
    "/v1/systemone",
    "/pooling",
    "/classify",
    "/v2/embed",
    "/generative_scoring",
    "/cohere/v2/chat",
    "/cohere/v2/chat/render",
    "/inference/v1/generate",
    "/inference/v1/abort_requests",
    "/abort_requests",
    "/fault_tolerance/apply",
    "/fault_tolerance/status",
    "/ping",
    "/invocations",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/start_profile",
    "/stop_profile",
    "/server_info",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/collective_rpc",
    "/sleep",
    "/release_kv_cache_memory",
    "/wake_up",
    "/is_sleeping",
    "/load",
    "/version",
    "/kv_event_sources",
    "/health",
    "/ready",
    "/static/index.html",
    "/docs",
    "/redoc",
    "/docs/oauth2-redirect",
    "/tokenizer_info",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/pause",
    "/resume",
    "/is_paused",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/get_world_size",
]
"""All other routes of vLLM 0.32: those of development, administration and training, those that
nothing but a peer of the engine calls, and interfaces that are not OpenAI's or Anthropic's."""

PAGES = {
    "/v1/models": Page.MODELS,
    "/models": Page.MODELS,
    "/status": Page.STATUS,
    "/healthz": Page.HEALTH,
    "/readyz": Page.READY,
    "/metrics": Page.METRICS,
    "/openapi.json": Page.OPENAPI,
}

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "SLEEP"]


def refusal(method: str, path: str) -> tuple[int, str]:
    with pytest.raises(ApiError) as caught:
        route(method, path)
    return caught.value.status, caught.value.code


@pytest.mark.parametrize("path", FORWARDED)
def test_what_clients_call_is_forwarded_to_where_vllm_serves_it(path: str) -> None:
    assert route("POST", path) == FORWARDED[path]


@pytest.mark.parametrize("path", FORWARDED)
def test_it_is_found_with_and_without_v1(path: str) -> None:
    bare = path.removeprefix("/v1")
    if path == "/v2/rerank":
        return
    assert route("POST", bare) == route("POST", "/v1" + bare) == FORWARDED[path]


@pytest.mark.parametrize("path", FORWARDED)
def test_it_is_called_with_post_only(path: str) -> None:
    for method in set(METHODS) - {"POST"}:
        assert refusal(method, path) == (405, "method_not_allowed")


@pytest.mark.parametrize("path", NOT_SERVED)
def test_no_other_route_of_the_engine_is_served(path: str) -> None:
    for method, prefix in product(METHODS, ["", "/v1"]):
        assert refusal(method, prefix + path) == (404, "unknown_url")


@pytest.mark.parametrize("path", PAGES)
def test_the_gateways_own_pages_are_read_only(path: str) -> None:
    assert route("GET", path) == route("HEAD", path) == PAGES[path]
    assert refusal("POST", path) == (405, "method_not_allowed")


@pytest.mark.parametrize("prefix", ["/v1/models/", "/models/"])
def test_a_models_id_may_have_slashes(prefix: str) -> None:
    assert route("GET", prefix + "mistralai/Mistral-7B") == OneModel("mistralai/Mistral-7B")


@pytest.mark.parametrize("path", FORWARDED)
def test_a_path_has_the_dialect_of_what_is_served_there(path: str) -> None:
    assert dialect_of(path) is FORWARDED[path].dialect


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/messages/batches", ANTHROPIC),
        ("/messages", ANTHROPIC),
        ("/v1/messages/", ANTHROPIC),
        ("/v1/messagesx", OPENAI),
        ("/v1/threads/1/messages", OPENAI),
        ("/v1", OPENAI),
        ("", OPENAI),
    ],
)
def test_what_is_not_served_has_the_dialect_of_its_place(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) is dialect


VARIATIONS: list[Callable[[str], str]] = [
    lambda path: path + "/",
    lambda path: path.upper(),
    lambda path: "/" + path,
    lambda path: "/." + path,
    lambda path: path.replace("/", "//"),
    lambda path: path + "/../sleep",
    lambda path: path + "%2f",
    lambda path: path + ";x=1",
    lambda path: path + "\0",
    lambda path: path + " ",
    lambda path: "http://engine" + path,
    lambda path: path.removeprefix("/"),
]


@pytest.mark.parametrize("path", FORWARDED)
def test_a_path_that_is_not_exactly_one_is_none(path: str) -> None:
    for vary in VARIATIONS:
        assert refusal("POST", vary(path)) == (404, "unknown_url")


@given(st.text(max_size=40).map("/".__add__) | st.sampled_from(sorted(FORWARDED)), st.text())
def test_whatever_the_path_an_engine_is_only_ever_asked_at_one_of_its_own(
    path: str, rest: str
) -> None:
    for asked in (path, path + rest):
        with suppress(ApiError):
            found = route("POST", asked)
            assert isinstance(found, Forwarded)
            assert found in FORWARDED.values()
