"""The operator's own HTTP page on 8888: /status, /healthz, /metrics.

Reads what the reconciler last reported; never asks the API server, never changes anything.
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from modelserving_operator.reconciler import Report

_JSON_INDENT: Final = 2

Reports = Mapping[tuple[str, str], Report]


def status_page(reports: Reports, now: float) -> dict[str, Any]:
    """Return the state of every ModelServing; `now` is by the monotonic clock."""
    return {
        "modelservings": [
            {
                "namespace": report.namespace,
                "name": report.name,
                "reconciledSecondsAgo": round(now - report.finished, 1),
                "error": report.error,
                "demand": report.demand,
                "status": report.status.model_dump(mode="json", by_alias=True, exclude_none=True),
            }
            for _, report in sorted(reports.items())
        ]
    }


def stale(
    sighted: Mapping[tuple[str, str], float],
    reports: Reports,
    now: float,
    stale_after_seconds: float,
) -> list[str]:
    """Return the ModelServings whose loop has stalled: a server that answers proves nothing.

    `sighted`: when each was first heard of; one that was never reconciled counts from then.
    """
    last = {**sighted, **{key: report.finished for key, report in reports.items()}}
    return [
        "/".join(key) for key, moment in sorted(last.items()) if now - moment > stale_after_seconds
    ]


async def serve(reports: Reports, stalled: Callable[[], list[str]], port: int) -> web.AppRunner:
    """Start the page on every address; the caller cleans the returned runner up."""

    async def status(_: web.Request) -> web.Response:
        page = status_page(reports, time.monotonic())
        return web.json_response(page, dumps=lambda data: json.dumps(data, indent=_JSON_INDENT))

    async def health(_: web.Request) -> web.Response:
        if found := stalled():
            return web.Response(status=503, text=f"stalled: {', '.join(found)}\n")
        return web.Response(text="ok\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes(
        [web.get("/status", status), web.get("/healthz", health), web.get("/metrics", metrics)]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, port=port).start()
    return runner
