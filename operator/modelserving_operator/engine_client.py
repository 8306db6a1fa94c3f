"""The engines as the operator asks them: are you busy, and can you really answer?

Thin: HTTP in, plain values out. An engine that does not answer is no error here, it is a finding.
"""

from typing import Any, Final

import httpx
import structlog
from httpx_aiohttp import AiohttpTransport

from modelserving_operator.actions import Probe
from modelserving_operator.activity import parse_activity
from modelserving_operator.observation import EngineActivity, ProbeResult

_log = structlog.get_logger(__name__)

_METRICS_TIMEOUT: Final = httpx.Timeout(2.0)
"""An engine's metrics are answered by its API process; longer means that it hangs."""

_PROBE_TIMEOUT: Final = httpx.Timeout(60.0, connect=5.0)
"""The first token after a load may pay for a last compilation."""

_PROBE_PROMPT: Final = "Hello"

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
        """Ask for one real token: an engine with an open port can still be broken."""
        try:
            return await self._probe(probe.endpoint, probe.model, probe.pod_uid)
        except (httpx.HTTPError, ValueError) as error:
            return ProbeResult(probe.pod_uid, ok=False, message=f"no completion: {error!r}")

    async def _probe(self, endpoint: str, model: str, pod_uid: str) -> ProbeResult:
        response = await self._http.post(
            f"{endpoint}/v1/completions",
            json={"model": model, "prompt": _PROBE_PROMPT, "max_tokens": 1, "temperature": 0},
            timeout=_PROBE_TIMEOUT,
        )
        if response.status_code in _NOT_GENERATIVE:
            return await self._probe_embedding(endpoint, model, pod_uid, response)
        if response.status_code != httpx.codes.OK:
            return ProbeResult(pod_uid, ok=False, message=_refusal(response))
        problem = completion_problem(response.json())
        return ProbeResult(pod_uid, ok=problem is None, message=problem or "")

    async def _probe_embedding(
        self, endpoint: str, model: str, pod_uid: str, refused: httpx.Response
    ) -> ProbeResult:
        response = await self._http.post(
            f"{endpoint}/v1/embeddings",
            json={"model": model, "input": _PROBE_PROMPT},
            timeout=_PROBE_TIMEOUT,
        )
        if response.status_code != httpx.codes.OK:
            return ProbeResult(pod_uid, ok=False, message=_refusal(refused))
        answer = response.json()
        embedded = bool(answer.get("data") and answer["data"][0].get("embedding"))
        return ProbeResult(pod_uid, ok=embedded, message="" if embedded else "an empty embedding")


def completion_problem(answer: Any) -> str | None:
    """Return what is wrong with a completion of one token, or None when nothing is."""
    if not isinstance(answer, dict) or not answer.get("choices"):
        return "the completion has no choices"
    usage = answer.get("usage") or {}
    if usage.get("completion_tokens", 0) < 1:
        return "the completion is empty: no token was generated"
    return None


def _refusal(response: httpx.Response) -> str:
    return f"a completion was answered with {response.status_code}: {response.text[:300]}"
