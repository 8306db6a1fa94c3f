"""The engines as the operator asks them: are you busy, and can you really answer?

Thin: HTTP in, plain values out. An engine that does not answer is no error here, it is a finding.
"""

import asyncio
from typing import Final

import httpx
import structlog
from httpx_aiohttp import AiohttpTransport

from modelserving_operator.actions import Probe
from modelserving_operator.activity import parse_activity
from modelserving_operator.completion import (
    JsonObject,
    is_doubtful,
    problem_of,
    problem_of_embedding,
    question,
)
from modelserving_operator.observation import EngineActivity, ProbeResult

_log = structlog.get_logger(__name__)

_METRICS_TIMEOUT: Final = httpx.Timeout(2.0)
"""An engine's metrics are answered by its API process; longer means that it hangs."""

_PROBE_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
"""The first token after a load may pay for a last compilation."""

_WHOLE_PROBE_SECONDS: Final = 120.0
"""For all its requests: an engine that sends a byte now and then must not hold the loop."""

_NOT_GENERATIVE: Final = frozenset({400, 404, 405, 501})
"""What vLLM answers on /v1/completions when the model only embeds."""


class EngineClient:
    """Asks engines over HTTP."""

    def __init__(self) -> None:
        self._http = httpx.AsyncClient(transport=AiohttpTransport(), trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def activity(self, endpoint: str) -> EngineActivity | None:
        """Return what the engine is doing, or None when it cannot be known."""
        try:
            response = await self._http.get(f"{endpoint}/metrics", timeout=_METRICS_TIMEOUT)
            response.raise_for_status()
            return parse_activity(response.text)
        except (httpx.HTTPError, ValueError) as error:
            _log.warning("engine activity unknown", endpoint=endpoint, error=repr(error))
            return None

    async def probe(self, probe: Probe) -> ProbeResult:
        """Ask for a real completion: an engine with an open port can still be broken."""
        try:
            async with asyncio.timeout(_WHOLE_PROBE_SECONDS):
                problem = await self._problem(probe)
        except (httpx.HTTPError, ValueError, TimeoutError) as error:
            problem = f"no completion: {error!r}"
        return ProbeResult(probe.pod_uid, ok=problem is None, message=problem or "")

    async def _problem(self, probe: Probe) -> str | None:
        response = await self._complete(probe, logprobs=False)
        if response.status_code == httpx.codes.OK:
            answer = response.json()
            problem = problem_of(answer, probe.model, probe.check, logprobs=False)
            return problem or (await self._problem_of_doubt(probe) if is_doubtful(answer) else None)
        if response.status_code in _NOT_GENERATIVE and probe.check.expected_text is None:
            return await self._problem_of_embedding(probe, response)
        return _refusal(response)

    async def _problem_of_doubt(self, probe: Probe) -> str | None:
        """Ask for the probabilities of an answer that may be a broken engine's."""
        response = await self._complete(probe, logprobs=True)
        if response.status_code == httpx.codes.BAD_REQUEST:
            return None  # It tells none (--max-logprobs 0), and nothing has been proven.
        if response.status_code != httpx.codes.OK:
            return _refusal(response)
        return problem_of(response.json(), probe.model, probe.check, logprobs=True)

    async def _complete(self, probe: Probe, *, logprobs: bool) -> httpx.Response:
        asked = question(probe.model, probe.check, logprobs=logprobs)
        return await self._ask(f"{probe.endpoint}/v1/completions", asked)

    async def _problem_of_embedding(self, probe: Probe, refused: httpx.Response) -> str | None:
        asked = {"model": probe.model, "input": probe.check.prompt}
        response = await self._ask(f"{probe.endpoint}/v1/embeddings", asked)
        if response.status_code != httpx.codes.OK:
            return _refusal(refused)
        return problem_of_embedding(response.json())

    async def _ask(self, url: str, body: JsonObject) -> httpx.Response:
        return await self._http.post(url, json=body, timeout=_PROBE_TIMEOUT)


def _refusal(response: httpx.Response) -> str:
    return f"a completion was answered with {response.status_code}: {response.text[:300]}"
