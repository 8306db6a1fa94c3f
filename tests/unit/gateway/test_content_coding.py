"""Compressed bodies are made plain within their bound, or refused with the reason."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserving_gateway.api.content_coding import decoded
from modelserving_gateway.api.errors import ApiError

BODY = b'{"model": "mistral"}'


def raw_deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(content) + packer.flush()


PACKERS: dict[bytes, Callable[[bytes], bytes]] = {
    b"gzip": gzip.compress,
    b"X-GZip": gzip.compress,
    b"deflate": zlib.compress,
    b" Deflate ": raw_deflate,
    b"identity": bytes,
    b"": bytes,
}


@given(st.binary(max_size=2000), st.sampled_from(sorted(PACKERS)))
def test_what_a_client_has_packed_is_unpacked(content: bytes, coding: bytes) -> None:
    assert decoded(PACKERS[coding](content), coding, 2000) == content


@pytest.mark.parametrize("coding", [b"gzip", b"deflate"])
def test_a_bomb_is_refused_before_it_is_unpacked(coding: bytes) -> None:
    bomb = PACKERS[coding](b"0" * 50_000_000)
    tracemalloc.start()
    with pytest.raises(ApiError) as caught:
        decoded(bomb, coding, 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (caught.value.status, caught.value.code) == (413, "body_too_large")
    assert peak < 1_000_000


def test_a_body_of_exactly_the_limit_is_not_too_large() -> None:
    assert decoded(gzip.compress(BODY), b"gzip", len(BODY)) == BODY


BROKEN = {
    "no gzip": b"\x1f\x8b",
    "plain": BODY,
    "empty": b"",
    "cut off": gzip.compress(BODY)[:-3],
    "wrong checksum": gzip.compress(BODY)[:-8] + b"\0" * 8,
    "followed by more": gzip.compress(BODY) + b"x",
    "many members": gzip.compress(b"") * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_body_is_400(content: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(content, b"gzip", 10_000)
    assert (caught.value.status, caught.value.code) == (400, "invalid_body")


@pytest.mark.parametrize("coding", [b"br", b"zstd", b"gzip, gzip", b"compress", b"\xff"])
def test_another_coding_is_415_and_says_which_are_accepted(coding: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decoded(BODY, coding, 10_000)
    assert caught.value.status == 415
    assert "gzip or deflate" in caught.value.message
    assert (b"accept-encoding", b"gzip, deflate") in caught.value.headers()


@given(st.binary(max_size=100), st.sampled_from([b"gzip", b"deflate"]))
def test_arbitrary_bytes_are_unpacked_or_refused(content: bytes, coding: bytes) -> None:
    with suppress(ApiError):
        assert len(decoded(content, coding, 1000)) <= 1000
