"""A request as the routes take it: its body read, and its model checked. Answers nothing."""

import asyncio
import json
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.datastructures import UploadFile
from starlette.requests import ClientDisconnect, Request

from .answers import RequestError

T = TypeVar("T")


class UnknownModelError(Exception):
    """The request names a model that this engine does not serve."""


@dataclass(frozen=True)
class Upload:
    """A form with a file in it."""

    filename: str
    content: bytes
    fields: dict[str, str]


async def json_body(request: Request, served: Sequence[str]) -> dict[str, Any]:
    """Return a JSON body. Raises RequestError, UnknownModelError."""
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        raise RequestError(f"JSON decode error: {error}") from None
    if not isinstance(body, dict):
        raise RequestError("the body must be an object")
    check_model(body.get("model"), served)
    return body


async def upload(request: Request, served: Sequence[str]) -> Upload:
    """Return a multipart form with a file. Raises RequestError, UnknownModelError."""
    async with request.form() as form:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("file must be uploaded in a multipart form", param="file")
        fields = {key: value for key, value in form.items() if isinstance(value, str)}
        check_model(fields.get("model"), served)
        return Upload(file.filename or "", await file.read(), fields)


def check_model(model: Any, served: Sequence[str]) -> None:
    """Raise UnknownModelError unless it is served; vLLM does not insist on a model either."""
    if model is not None and model not in served:
        raise UnknownModelError(str(model))


async def unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """Return the result of `work`, which is cancelled when the client goes away first."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for unfinished in (task, gone):
            unfinished.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
