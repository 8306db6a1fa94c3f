"""The life of a forwarded request: read, decide, hold, send, retry, pass the answer on, account.

Raw ASGI, since this is the hot path. What is decided is routing.py's, what waits dispatch.py's.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import structlog

from modelserving_gateway import errors, headers, sse
from modelserving_gateway.body import read_body
from modelserving_gateway.body_budget import BodyBudget
from modelserving_gateway.client import Client, ClientLeftError, Sent
from modelserving_gateway.departing import Departure, before_abort, departure
from modelserving_gateway.dispatch import Dispatcher
from modelserving_gateway.errors import ApiError
from modelserving_gateway.headers import RawHeaders
from modelserving_gateway.metrics import Metrics
from modelserving_gateway.queueing import Held, QueueFullError
from modelserving_gateway.routing import Forward, Refuse, retry_after_seconds
from modelserving_gateway.settings import Settings
from modelserving_gateway.surface import Form
from modelserving_gateway.upstream import Answer, FailureKind, UpstreamError, Upstreams

CLIENT_LEFT_STATUS: Final = 499
"""What logs and metrics call a client that left; nobody receives it (nginx's convention)."""

_MAX_WHOLE_ANSWER: Final = 4_194_304
"""4 MiB: a plain answer is passed on once it is whole, so that an engine which dies amid it becomes
a 502. No completion is larger; of a larger batch of embeddings the rest is streamed."""

_FIRST_RETRY_SECONDS: Final = 0.25
_LONGEST_RETRY_SECONDS: Final = 5.0
"""Between tries at an endpoint that failed. The operator takes a lost engine's endpoint out within
a second or two; then the request waits for the next one instead."""


@dataclass(slots=True)
class Exchange:
    """What is known of one request so far; `held` is its place among all requests."""

    client: Client
    started: float
    path: str
    model: str = ""
    held: Held | None = None
    was_held: bool = False
    held_seconds: float = 0.0
    first_byte_seconds: float | None = None
    reached_engine: int = 0
    """How often an engine may have begun with it and was then lost."""
    failures: int = 0
    failed_endpoint: str | None = None
    retry_at: float = 0.0
    error: str | None = None


class Proxy:
    """Forwards requests to engines."""

    def __init__(
        self, settings: Settings, dispatcher: Dispatcher, upstreams: Upstreams, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._upstreams = upstreams
        self._metrics = metrics
        self._running: set[Client] = set()
        self._bodies = BodyBudget(settings.max_held_bytes)
        metrics.body_bytes.set_function(lambda: self._bodies.taken)
        self._log = structlog.get_logger("modelserving_gateway.request")

    @property
    def in_flight(self) -> int:
        """Requests that are read, held or forwarded now."""
        return len(self._running)

    def interrupt_all(self) -> None:
        """End every request with an error: the shutdown budget is over."""
        for client in tuple(self._running):
            client.interrupt(errors.shutting_down())

    async def handle(self, client: Client, path: str) -> None:
        """Answer a request for the engine's `path`, whatever happens. Raises nothing."""
        exchange = Exchange(client, time.monotonic(), path)
        self._running.add(client)
        try:
            await self._exchange(exchange)
        except ClientLeftError:
            client.status = CLIENT_LEFT_STATUS
        except ApiError as error:
            exchange.error = error.code
            self._metrics.rejected.labels(error.code).inc()
            await client.fail(error)
        finally:
            self._running.discard(client)
            self._account(exchange)

    async def _exchange(self, exchange: Exchange) -> None:
        client, limit = exchange.client, self._settings.max_body_bytes
        with self._bodies.share(client.body_size(limit)) as share:
            content = await self._read(exchange)
            share.shrink(len(content))
            await self._answer(exchange, content)

    async def _answer(self, exchange: Exchange, content: bytes) -> None:
        exchange.held = self._dispatcher.ticket(exchange.model, len(content))
        async with exchange.client.attended():
            await self._until_answered(exchange, content)

    async def _read(self, exchange: Exchange) -> bytes:
        """Return the body for the engine, and nothing else of it: it may be held for minutes."""
        client, settings = exchange.client, self._settings
        content = await client.read_body(settings.max_body_bytes, settings.body_timeout_seconds)
        body = read_body(
            content,
            Form.JSON,
            headers.first(client.headers, b"content-type"),
            headers.first(client.headers, b"content-encoding"),
            settings.max_body_bytes,
        )
        model = self._dispatcher.catalog.model_called(body.model)
        if model is None:
            raise errors.model_not_found(body.model)
        exchange.model = model
        return body.for_model(model)

    async def _until_answered(self, exchange: Exchange, content: bytes) -> None:
        """Hold and forward in turns until there is an answer, or a reason why there is none."""
        until = exchange.started + self._settings.hold_timeout_seconds
        while True:
            decision = self._dispatcher.decide(exchange.model)
            if isinstance(decision, Refuse):
                raise decision.error
            if not isinstance(decision, Forward):
                await self._hold(exchange, until)
            elif decision.endpoint == exchange.failed_endpoint and (
                time.monotonic() < exchange.retry_at
            ):
                await self._hold(exchange, min(until, exchange.retry_at), decision.endpoint)
            else:
                try:
                    await self._forward(exchange, decision, content)
                except UpstreamError as failure:
                    self._take_failure(exchange, decision.endpoint, failure)
                else:
                    return

    async def _hold(self, exchange: Exchange, until: float, avoid: str | None = None) -> None:
        """Wait for a change. Raises ApiError when the budget is over or the queue is full."""
        begun = time.monotonic()
        if begun >= exchange.started + self._settings.hold_timeout_seconds:
            raise self._out_of_time(exchange)
        assert exchange.held is not None  # noqa: S101
        admitted = exchange.was_held or exchange.failures > 0
        exchange.was_held = True
        try:
            # The event loop's clock is time.monotonic, in asyncio's own and in uvloop's.
            await self._dispatcher.hold(exchange.held, until, admitted=admitted, avoid=avoid)
        except QueueFullError as full:
            exchange.was_held = False
            raise errors.queue_full(exchange.model, str(full)) from None
        finally:
            exchange.held_seconds += time.monotonic() - begun
            held = f"{exchange.held_seconds:.3f}".encode()
            exchange.client.answer_headers[headers.HELD_SECONDS] = held

    def _out_of_time(self, exchange: Exchange) -> ApiError:
        if exchange.reached_engine:
            return errors.upstream_failed(exchange.model, exchange.reached_engine)
        return errors.model_not_ready_in_time(
            exchange.model,
            self._settings.hold_timeout_seconds,
            retry_after_seconds(self._dispatcher.catalog, exchange.model),
        )

    def _take_failure(self, exchange: Exchange, endpoint: str, failure: UpstreamError) -> None:
        """Note a failure; raises ApiError when the request must not be sent again."""
        self._metrics.upstream_failures.labels(exchange.model, failure.kind).inc()
        if failure.kind is FailureKind.SILENT:
            seconds = self._settings.upstream_read_timeout_seconds
            raise errors.upstream_timeout(exchange.model, seconds) from failure
        if failure.amid_answer:
            raise errors.upstream_lost(exchange.model) from failure
        if failure.kind is FailureKind.LOST:
            exchange.reached_engine += 1
        if exchange.reached_engine >= self._settings.max_upstream_attempts:
            raise errors.upstream_failed(exchange.model, exchange.reached_engine) from failure
        exchange.retry_at = time.monotonic() + _pause(exchange.failures, failure.kind)
        exchange.failures += 1
        exchange.failed_endpoint = endpoint
        self._metrics.retries.labels(exchange.model).inc()
        self._log.warning(
            "engine failed before its answer; the request is put back",
            id=exchange.client.request_id.decode(),
            model=exchange.model,
            endpoint=endpoint,
            error=str(failure),
            attempt=exchange.failures,
        )

    async def _forward(self, exchange: Exchange, to: Forward, content: bytes) -> None:
        """Send to the engine and pass its answer on. Raises UpstreamError."""
        client = exchange.client
        begun = time.monotonic()
        in_flight = self._metrics.in_flight.labels(exchange.model)
        in_flight.inc()
        try:
            to_engine = headers.to_engine(client.headers, client.request_id)
            async with self._upstreams.post(
                to.endpoint, exchange.path, to_engine, content, patience=to.stop_seconds
            ) as answer:
                exchange.first_byte_seconds = time.monotonic() - begun
                await _pass_on(client, answer)
        finally:
            in_flight.dec()

    def _account(self, exchange: Exchange) -> None:
        client = exchange.client
        status = client.status or 500
        self._metrics.requests.labels(exchange.model, str(status)).inc()
        if exchange.was_held:
            self._metrics.held_seconds.labels(exchange.model).observe(exchange.held_seconds)
        if exchange.first_byte_seconds is not None:
            self._metrics.first_byte_seconds.labels(exchange.model).observe(
                exchange.first_byte_seconds
            )
        self._log.info(
            "request",
            id=client.request_id.decode(),
            path=exchange.path,
            model=exchange.model,
            status=status,
            error=exchange.error,
            held_seconds=round(exchange.held_seconds, 3),
            first_byte_seconds=_rounded(exchange.first_byte_seconds),
            total_seconds=round(time.monotonic() - exchange.started, 3),
            retries=exchange.failures,
            bytes=client.bytes_sent,
        )


def _pause(failures: int, kind: FailureKind) -> float:
    """Return the seconds until the failed endpoint is tried again, after so many failures."""
    if failures == 0 and kind is FailureKind.LOST:
        return 0.0  # Mostly a kept connection that the engine has closed: the next one is new.
    return min(_LONGEST_RETRY_SECONDS, _FIRST_RETRY_SECONDS * 2.0 ** min(failures, 10))


async def _pass_on(client: Client, answer: Answer) -> None:
    answer_headers = headers.to_client(answer.headers)
    if sse.is_event_stream(
        headers.first(answer.headers, b"content-type"),
        headers.first(answer.headers, b"content-encoding"),
    ):
        await _pass_events(client, answer, answer_headers)
    else:
        await _pass_plain(client, answer, answer_headers)


async def _pass_events(client: Client, answer: Answer, answer_headers: RawHeaders) -> None:
    lines = sse.WholeLines()
    async for chunk in answer.chunks():
        events = lines.feed(chunk)
        passed_on = before_abort(events)
        if client.sent is Sent.NOTHING:
            if passed_on == b"":
                raise UpstreamError(FailureKind.LOST, "it gave up before its answer")
            await client.start(answer.status, answer_headers, Sent.EVENTS)
        if passed_on is not None:
            await client.write(passed_on)
            raise UpstreamError(FailureKind.LOST, "it gave up amid its answer", amid_answer=True)
        await client.write(events)
    await client.finish(lines.finish())


async def _pass_plain(client: Client, answer: Answer, answer_headers: RawHeaders) -> None:
    chunks = answer.chunks()
    parts, whole = await _first_bytes(chunks)
    if whole:
        body = b"".join(parts)
        _require_staying(answer.status, body)
        await client.answer(answer.status, answer_headers, body)
        return
    length = headers.first(answer.headers, b"content-length")
    if length is not None:
        answer_headers = [*answer_headers, (b"content-length", length)]
    await client.start(answer.status, answer_headers, Sent.PLAIN)
    for part in parts:
        await client.write(part)
    async for chunk in chunks:
        await client.write(chunk)
    await client.finish()


def _require_staying(status: int, body: bytes) -> None:
    """Raise UpstreamError when the answer is that of an engine which is going away."""
    match departure(status, body):
        case Departure.NOT_BEGUN:
            raise UpstreamError(FailureKind.DEPARTING, "it is shutting down")
        case Departure.BROKEN_OFF:
            raise UpstreamError(FailureKind.LOST, "it has given up")


async def _first_bytes(chunks: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
    """Read until the end, or until there is more than a whole answer may have."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        parts.append(chunk)
        size += len(chunk)
        if size > _MAX_WHOLE_ANSWER:
            return parts, False
    return parts, True


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
