"""Passes an engine's answer on to the client: whole, as it comes, or as an event of a stream.

Knows nothing of queues or retries: an engine that fails is an UpstreamError, whatever it had sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from modelserving_gateway.api import errors, headers, sse
from modelserving_gateway.api.answer_model import AnswerModel, is_rewritable
from modelserving_gateway.api.headers import RawHeaders
from modelserving_gateway.clients.client import Client, Sent
from modelserving_gateway.engine.departing import Departure, before_departure, departure, is_aborted
from modelserving_gateway.engine.error_shape import in_shape, soon
from modelserving_gateway.engine.upstream import Answer, FailureKind, UpstreamError

_MAX_WHOLE_ANSWER: Final = 4_194_304
"""4 MiB: a plain answer is passed on once it is whole, so that an engine which dies amid it becomes
a 502. No completion is larger; of a larger batch of embeddings the rest is streamed."""

_MAX_WHOLE_ANSWERS: Final = 67_108_864
"""64 MiB of such answers, all together, until clients have taken them: above it the next ones are
streamed, too."""

_NO_ROUTE: Final = b'{"detail":"Not Found"}'
"""FastAPI's, and so vLLM's, where the kind of model that it serves has no such path."""


@dataclass(slots=True)
class Collected:
    """Bytes of all plain answers that are in memory now; one for each gateway."""

    size: int = 0

    def one(self) -> "_Share":
        """Return what one answer takes, until its block ends."""
        return _Share(self)


class _Share:
    __slots__ = ("_collected", "size")

    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self.size = 0

    def add(self, size: int) -> bool:
        """Count so many bytes; say whether there may be more."""
        self.size += size
        self._collected.size += size
        return self.size <= _MAX_WHOLE_ANSWER and self._collected.size <= _MAX_WHOLE_ANSWERS

    def __enter__(self) -> "_Share":
        return self

    def __exit__(self, *_: object) -> None:
        self._collected.size -= self.size


@dataclass(slots=True)
class Asked:
    """What the client asked for, as far as the answer must fit it."""

    model: str
    """By its declared name."""
    path: str
    names: AnswerModel | None
    """Puts in the name that the client used, where it was another one."""


Begun = Callable[[bool], None]


async def pass_on(
    client: Client, answer: Answer, asked: Asked, collected: Collected, begun: Begun
) -> None:
    """Pass an answer on. Raises UpstreamError, ClientLeftError, or ApiError for the engine's own.

    ApiError is raised where the answer as it is would say nothing to the client. `begun` is called
    when it is clear that this is an answer, and not an engine's way to turn a request down; it is
    told whether the engine is done with it.
    """
    content_type = headers.first(answer.headers, b"content-type")
    content_encoding = headers.first(answer.headers, b"content-encoding")
    names = asked.names
    if names is not None and not is_rewritable(content_type, content_encoding):
        names = None
    is_events = sse.is_event_stream(content_type, content_encoding)
    if is_events and (client.sent is Sent.NOTHING or answer.status == 200):
        await _pass_events(client, answer, names, begun)
        return
    with collected.one() as share:
        body, whole = await _beginning(answer, share)
        if whole:
            _require_answer(answer.status, body, asked)
        begun(whole)
        if client.sent is Sent.NOTHING:
            await _pass_plain(client, answer, asked, names, (body, whole))
        else:
            await _pass_as_event(client, answer, asked, names, (body, whole))


async def _pass_events(
    client: Client, answer: Answer, names: AnswerModel | None, begun: Begun
) -> None:
    lines = sse.WholeLines()
    has_begun = False
    async for chunk in answer.chunks():
        events = lines.feed(chunk)
        if not events:
            continue  # Not a line yet: what it will say is not known.
        passed_on = before_departure(events)
        if not has_begun:
            if passed_on == b"":
                raise UpstreamError(FailureKind.LOST, "it gave up before its answer")
            has_begun = True
            await _begin_events(client, answer, begun)
        if passed_on is not None:
            await client.write(_named(passed_on, names))
            raise UpstreamError(FailureKind.LOST, "it gave up amid its answer", amid_answer=True)
        await client.write(_named(events, names))
    if not has_begun:
        await _begin_events(client, answer, begun)
    await client.finish(_named(lines.finish(), names))


async def _begin_events(client: Client, answer: Answer, begun: Begun) -> None:
    if client.sent is Sent.NOTHING:
        await client.start(answer.status, headers.to_client(answer.headers), Sent.EVENTS)
    begun(False)


def _named(events: bytes, names: AnswerModel | None) -> bytes:
    return events if names is None else names.in_events(events)


async def _pass_plain(
    client: Client,
    answer: Answer,
    asked: Asked,
    names: AnswerModel | None,
    beginning: tuple[bytes, bool],
) -> None:
    body, whole = beginning
    if whole:
        if answer.status >= 400:
            await _pass_error(client, answer, asked, body)
            return
        body = body if names is None else names.in_body(body)
        await client.answer(answer.status, headers.to_client(answer.headers), body)
        return
    renamed = body if names is None else names.in_body(body)
    head = headers.to_client(answer.headers)
    await client.start(answer.status, _with_length(head, answer, renamed, body), Sent.PLAIN)
    await client.write(renamed)
    async for chunk in answer.chunks():
        await client.write(chunk)
    await client.finish()


async def _pass_error(client: Client, answer: Answer, asked: Asked, body: bytes) -> None:
    """Pass the engine's own error on, in the client's shape."""
    head = soon(headers.to_client(answer.headers))
    if headers.first(head, b"content-encoding") in (None, b"identity"):
        shaped = in_shape(answer.status, body, client.dialect, asked.model)
        if shaped is not body:
            body = shaped
            head = [each for each in head if each[0] != b"content-type"]
            head.append((b"content-type", b"application/json"))
    await client.answer(answer.status, head, body)


def _with_length(head: RawHeaders, answer: Answer, sent: bytes, received: bytes) -> RawHeaders:
    length = headers.first(answer.headers, b"content-length")
    if length is None:
        return head
    return [*head, (b"content-length", str(int(length) + len(sent) - len(received)).encode())]


async def _pass_as_event(
    client: Client,
    answer: Answer,
    asked: Asked,
    names: AnswerModel | None,
    beginning: tuple[bytes, bool],
) -> None:
    """Tell in an event what is no event stream: the head of one has been sent already."""
    body, whole = beginning
    if not whole:
        raise errors.answer_too_large(asked.model, len(body))
    if answer.status != 200:
        raise errors.engine_error(asked.model, answer.status, body)
    named = body if names is None else names.in_body(body)
    await client.finish(sse.event(named))


async def _beginning(answer: Answer, share: _Share) -> tuple[bytes, bool]:
    """Read until the end, or until there is more than may be kept; say whether all is read."""
    if (body := answer.whole()) is not None:
        share.add(len(body))
        return body, True
    parts: list[bytes] = []
    async for chunk in answer.chunks():
        parts.append(chunk)
        if not share.add(len(chunk)):
            return b"".join(parts), False
    return b"".join(parts), True


def _require_answer(status: int, body: bytes, asked: Asked) -> None:
    """Raise when the answer is that of an engine which is going away, or has no such path."""
    if status == 200 and not is_aborted(body):
        return
    match departure(status, body):
        case Departure.NOT_BEGUN:
            raise UpstreamError(FailureKind.DEPARTING, "it is shutting down")
        case Departure.BROKEN_OFF:
            raise UpstreamError(FailureKind.LOST, "it has given up")
    if status == 404 and body.strip() == _NO_ROUTE:
        raise errors.path_not_served_by_model(asked.model, asked.path)
