"""The life of a forwarded request: read, wait for its turn, send, retry, pass on, account.

Raw ASGI, since this is the hot path. Where a request may go and when is dispatch.py's, what comes
back is passing.py's.
"""

import asyncio
import time
from datetime import UTC, datetime
from typing import Final

import structlog

from modelserving_gateway.access.access import Access
from modelserving_gateway.api import errors, headers, sse
from modelserving_gateway.api.answer_model import answer_model
from modelserving_gateway.api.body import Body, read_body
from modelserving_gateway.api.body_budget import BodyBudget, Share
from modelserving_gateway.api.errors import ApiError, EngineError
from modelserving_gateway.api.surface import Forwarded
from modelserving_gateway.api.wishes import read_wishes
from modelserving_gateway.clients.client import FAILING_SECONDS, Client, ClientLeftError
from modelserving_gateway.engine.upstream import FailureKind, UpstreamError, Upstreams
from modelserving_gateway.exchange import Exchange
from modelserving_gateway.keepalive import KeepAlive
from modelserving_gateway.metrics import Metrics
from modelserving_gateway.passing import Asked, Collected, pass_on
from modelserving_gateway.request_log import RequestLog
from modelserving_gateway.settings import LogLevel, Settings
from modelserving_gateway.turns import estimate
from modelserving_gateway.turns.dispatch import Dispatcher, Turn
from modelserving_gateway.turns.engines import pause_seconds
from modelserving_gateway.turns.queueing import Held, QueueFullError
from modelserving_gateway.turns.routing import Refuse, fallback

_LEVELS_WITH_REQUESTS: Final = frozenset({LogLevel.DEBUG, LogLevel.INFO})

CLIENT_LEFT_STATUS: Final = 499
"""What logs and metrics call a client that left; nobody receives it (nginx's convention)."""


class Proxy:
    """Forwards requests to engines."""

    def __init__(
        self,
        settings: Settings,
        dispatcher: Dispatcher,
        upstreams: Upstreams,
        metrics: Metrics,
        access: Access,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._upstreams = upstreams
        self._metrics = metrics
        self._access = access
        self._running: set[Client] = set()
        self._bodies = BodyBudget(settings.max_held_bytes)
        self._collected = Collected()
        metrics.answer_bytes.set_function(lambda: self._collected.size)
        metrics.body_bytes.set_function(lambda: self._bodies.taken)
        self._request_log = RequestLog(enabled=settings.log_level in _LEVELS_WITH_REQUESTS)
        self._log = structlog.get_logger(__name__)

    @property
    def in_flight(self) -> int:
        """Requests that are read, held or forwarded now."""
        return len(self._running)

    def interrupt_all(self) -> None:
        """End every request with an error: the shutdown budget is over."""
        for client in tuple(self._running):
            client.interrupt(errors.shutting_down())

    async def handle(self, client: Client, route: Forwarded) -> None:
        """Answer a request for an engine, whatever happens. Raises nothing."""
        exchange = Exchange(client, route, time.monotonic())
        self._running.add(client)
        try:
            with client.attended():
                await self._exchange(exchange)
        except ClientLeftError:
            client.status = CLIENT_LEFT_STATUS
        except ApiError as error:
            # The traceback's frames hold the exchange, and so the error: a cycle.
            exchange.error = error.with_traceback(None)
            if not isinstance(error, EngineError):
                self._metrics.rejected.labels(error.code).inc()
            await _tell(exchange, error)
        except Exception:
            id_ = client.request_id.decode()
            self._log.exception("a defect of the gateway", id=id_)
            exchange.error = errors.internal_error(id_)
            self._metrics.rejected.labels(exchange.error.code).inc()
            await _tell(exchange, exchange.error)
        finally:
            if exchange.keepalive is not None:
                exchange.keepalive.cancel()
            self._running.discard(client)
            self._account(exchange)

    async def _exchange(self, exchange: Exchange) -> None:
        client = exchange.client
        caller = exchange.caller = self._access.identify(client.headers)
        exchange.wishes = read_wishes(
            client.headers, usual=caller.usual_priority, most=caller.priority
        )
        with self._access.entered(caller), self._bodies.share() as share:
            body = await self._read(exchange, share)
            share.resize(len(body.content))
            exchange.size = len(body.content)
            exchange.sequence = self._dispatcher.next_sequence()
            exchange.arrived = time.monotonic()
            await self._until_answered(exchange, body)

    async def _read(self, exchange: Exchange, share: Share) -> Body:
        """Read the body, and learn which model is to answer."""
        client, settings = exchange.client, self._settings
        content = await client.read_body(
            settings.max_body_bytes, settings.body_timeout_seconds, share.resize
        )
        body = read_body(
            content,
            exchange.route.form,
            client.header(b"content-type"),
            client.header(b"content-encoding"),
            settings.max_body_bytes,
        )
        exchange.asked = body.model
        self._choose_model(exchange)
        if body.stream and exchange.route.streams:
            exchange.keepalive = KeepAlive(
                client,
                settings.hold_grace_seconds,
                settings.keepalive_seconds,
                lambda: self._progress(exchange),
            )
        return body

    def _choose_model(self, exchange: Exchange) -> None:
        """Choose the declared model that is to answer. Raises ApiError (403, 404, 503)."""
        catalog, caller = self._dispatcher.catalog, exchange.caller
        model = catalog.model_called(exchange.asked)
        if model is None:
            if not exchange.model:
                raise errors.model_not_found(exchange.asked)
            raise self._dispatcher.undeclared(exchange.asked)
        caller.require(model)
        others = exchange.wishes.fallback
        other = fallback(catalog, model, others, caller.may_use) if others else None
        exchange.fell_back = other is not None
        exchange.model = other or model
        exchange.names = None if other is not None else answer_model(exchange.asked, model)
        exchange.client.answer_headers[headers.MODEL] = exchange.model.encode()

    async def _until_answered(self, exchange: Exchange, body: Body) -> None:
        """Wait for a turn and forward, again and again until there is an answer or an error."""
        while True:
            turn = await self._turn(exchange)
            if turn is None:
                continue
            with turn:
                try:
                    # Made for each try: as long as the request is held, there is one copy of it.
                    await self._forward(exchange, turn, body.for_model(exchange.model))
                except UpstreamError as failure:
                    self._take_failure(exchange, turn, failure)
                else:
                    return

    async def _turn(self, exchange: Exchange) -> Turn | None:
        """Return the request's turn; None when another model has to answer than it seemed.

        Raises ApiError when there will be no turn.
        """
        if exchange.avoid is None:
            turn = self._dispatcher.turn_at_once(exchange.model)
            if turn is not None:
                return turn
        begun = time.monotonic()
        try:
            granted = await self._wait_for_turn(exchange)
        except QueueFullError as full:
            raise errors.queue_full(exchange.model, str(full)) from None
        finally:
            self._count_wait(exchange, time.monotonic() - begun)
        if isinstance(granted, Turn):
            return granted
        if not exchange.fell_back and not self._is_renamed(exchange):
            raise granted.error
        # What it fell back to has gone before its turn, and must not be swapped in for it; or its
        # model has another name by now.
        exchange.held = None
        self._choose_model(exchange)
        return None

    def _is_renamed(self, exchange: Exchange) -> bool:
        """Tell whether the name that was asked for has come to mean another model."""
        meant = self._dispatcher.catalog.model_called(exchange.asked)
        return meant is not None and meant != exchange.model

    async def _wait_for_turn(self, exchange: Exchange) -> Turn | Refuse:
        exchange.budget = min(
            self._dispatcher.catalog.hold_seconds(exchange.model)
            or self._settings.hold_timeout_seconds,
            exchange.wishes.hold_seconds,
        )
        with self._dispatcher.queued(
            self._held(exchange),
            admitted=exchange.was_held or exchange.failures > 0,
            may_swap=exchange.wishes.may_swap and not exchange.fell_back,
            may_use=exchange.caller.may_use,
            avoid=exchange.avoid,
            avoid_until=exchange.avoid_until,
        ) as waiter:
            if not waiter.granted.done():
                exchange.was_held = True
                if exchange.keepalive is not None:
                    exchange.keepalive.begin()
                left = max(0.0, exchange.until - time.monotonic())
                await asyncio.wait({waiter.granted}, timeout=left)
            if not waiter.granted.done():
                raise self._out_of_time(exchange)
            return waiter.take()

    def _held(self, exchange: Exchange) -> Held:
        """Return the request's place in arrival order, the same whenever it is asked for."""
        if exchange.held is None:
            exchange.held = self._dispatcher.held(
                exchange.sequence,
                exchange.model,
                exchange.size,
                exchange.wishes.priority,
                exchange.arrived,
            )
        return exchange.held

    def _count_wait(self, exchange: Exchange, seconds: float) -> None:
        if not exchange.was_held:
            return
        exchange.held_seconds += seconds
        held = f"{exchange.held_seconds:.3f}".encode()
        exchange.client.answer_headers[headers.HELD_SECONDS] = held

    def _out_of_time(self, exchange: Exchange) -> ApiError:
        if self._dispatcher.is_crowded(exchange.model):
            return errors.model_busy_for_too_long(exchange.model, exchange.budget)
        return errors.model_not_ready_in_time(
            exchange.model,
            exchange.budget,
            estimate.retry_after_seconds(self._dispatcher.catalog, exchange.model, _now()),
        )

    def _progress(self, exchange: Exchange) -> bytes:
        """Return the comment for a client that waits."""
        seconds = time.monotonic() - exchange.started
        told = f"modelserving model={exchange.model} waited_seconds={seconds:.0f}"
        if self._dispatcher.is_active(exchange.model):
            ahead = 0 if exchange.held is None else self._dispatcher.ahead_of(exchange.held)
            return sse.comment(f"{told} state=Ready requests_ahead={ahead}")
        servings = self._dispatcher.catalog.servings_of(exchange.model)
        if not servings:
            return sse.comment(told)
        state, left = estimate.progress(servings, exchange.model, _now())
        return sse.comment(f"{told} state={state} estimated_seconds={left:.0f}")

    def _take_failure(self, exchange: Exchange, turn: Turn, failure: UpstreamError) -> None:
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
            self._avoid(exchange, turn.target.endpoint)
        else:
            # It has seen nothing of this request, and nobody else's would fare better.
            turn.not_reached()
        exchange.failures += 1
        self._metrics.retries.labels(exchange.model).inc()
        self._log.warning(
            "engine failed before its answer; the request is put back",
            id=exchange.client.request_id.decode(),
            model=exchange.model,
            endpoint=turn.target.endpoint,
            error=str(failure),
            attempt=exchange.failures,
        )

    def _avoid(self, exchange: Exchange, endpoint: str) -> None:
        """Wait before the engine that has lost a request gets it again: it may be what it dies of.

        Not after the first time: mostly a kept connection was closed by the engine, and the next
        one is new.
        """
        again = exchange.reached_engine - 2
        if again < 0:
            return
        exchange.avoid = endpoint
        exchange.avoid_until = asyncio.get_running_loop().time() + pause_seconds(again)

    async def _forward(self, exchange: Exchange, turn: Turn, content: bytes) -> None:
        """Send to the engine and pass its answer on. Raises UpstreamError, ApiError."""
        client = exchange.client
        begun = time.monotonic()
        counted = self._metrics.requests.of(exchange.model)
        counted.in_flight += 1
        if exchange.keepalive is not None:
            exchange.keepalive.begin()
        try:
            async with self._upstreams.post(
                turn.target.endpoint,
                exchange.route.path,
                headers.to_engine(
                    client.headers,
                    client.request_id,
                    # What has to be read on its way must not come compressed.
                    readable=exchange.names is not None or exchange.keepalive is not None,
                    credentials=not self._access.required,
                ),
                content,
                patience=turn.target.stop_seconds,
            ) as answer:
                exchange.first_byte_seconds = time.monotonic() - begun
                if exchange.keepalive is not None:
                    await exchange.keepalive.end()
                asked = Asked(exchange.model, exchange.route.path, exchange.names)
                await pass_on(
                    client,
                    answer,
                    asked,
                    self._collected,
                    lambda done: self._begun(exchange, turn, done=done),
                )
        finally:
            counted.in_flight -= 1

    def _begun(self, exchange: Exchange, turn: Turn, *, done: bool) -> None:
        """Note that it is an answer that comes; a client that is slow to take it keeps nobody."""
        turn.answered()
        if done:
            turn.end()
        if exchange.fell_back:
            asked = self._dispatcher.catalog.model_called(exchange.asked)
            self._metrics.fallbacks.labels(asked or "", exchange.model).inc()

    def _account(self, exchange: Exchange) -> None:
        counted = self._metrics.requests.of(exchange.model)
        counted.answered(exchange.status)
        if exchange.was_held:
            counted.held_seconds.observe(exchange.held_seconds)
        if exchange.first_byte_seconds is not None:
            counted.first_byte_seconds.observe(exchange.first_byte_seconds)
        self._request_log.write(exchange.line())


async def _tell(exchange: Exchange, error: ApiError) -> None:
    if exchange.keepalive is not None:
        # What it is writing is finished first, unless the client takes nothing.
        try:
            async with asyncio.timeout(FAILING_SECONDS):
                await exchange.keepalive.end()
        except TimeoutError:
            exchange.keepalive.cancel()
    await exchange.client.fail(error)


def _now() -> datetime:
    return datetime.now(UTC)
