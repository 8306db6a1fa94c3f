"""The Kubernetes API as this operator uses it: plain objects in, plain objects out.

The only module that talks to the API server besides kopf. It converts the client's errors once,
into KubernetesApiError, and holds no policy.
"""

import asyncio
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio import client, config

from modelserving_api.names import GROUP, PLURAL, SERVING_LABEL, VERSION
from modelserving_operator import metrics
from modelserving_operator.departures import FIELD_MANAGER
from modelserving_operator.observation import owner_of

_TIMEOUT_SECONDS: Final = 10.0
"""For one call. An API server that takes longer is in trouble, and we come back anyway."""

_CALLS_AT_ONCE: Final = 16
"""A start with a hundred ModelServings must not be a flood: an API server grants a client a few
hundred calls at once in all, and answers these in milliseconds."""

_LOG_LINES: Final = 400
_LOG_BYTES: Final = 200_000
"""Of a dead engine: two tracebacks of vLLM's processes, the first of which names the cause."""

_APPLY: Final = "application/apply-patch+yaml"
_MERGE: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"

_PATHS: Final = {
    "Deployment": "/apis/apps/v1/namespaces/{namespace}/deployments",
    "Service": "/api/v1/namespaces/{namespace}/services",
    "Pod": "/api/v1/namespaces/{namespace}/pods",
    "Event": "/api/v1/namespaces/{namespace}/events",
    "ModelServing": f"/apis/{GROUP}/{VERSION}/namespaces/{{namespace}}/{PLURAL}",
}

KubernetesObject = dict[str, Any]


class KubernetesApiError(Exception):
    """A call to the API server failed. `status` is its HTTP status, 0 when there was none.

    `retry_after_seconds` is what the server asked for (429 and 503), if it did.
    """

    def __init__(
        self, call: str, status: int, message: str, retry_after_seconds: float | None = None
    ) -> None:
        self.status = status
        self.message = message
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"{call}: {status or 'no answer'}: {message}")

    @property
    def refused(self) -> bool:
        """Whether the object itself was refused (schema, quota, admission), not the moment.

        An API server that is just coming up knows no roles yet and forbids everything; that passes.
        Quotas and admission say 403, too, but of the object and not of who asks.
        """
        return self.status in (400, 422) or (self.status == 403 and not self._of_who_asks)

    @property
    def _of_who_asks(self) -> bool:
        return 'User "' in self.message and " cannot " in self.message


class KubernetesApi:
    """A connection to the API server, from the Pod's service account or a kubeconfig."""

    def __init__(self, api_client: Any, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        self._client = api_client
        self._timeout_seconds = timeout_seconds
        self._at_once = asyncio.Semaphore(_CALLS_AT_ONCE)

    @classmethod
    async def connect(cls, timeout_seconds: float = _TIMEOUT_SECONDS) -> "KubernetesApi":
        """Connect as the Pod does, or as KUBECONFIG says outside a cluster."""
        configuration = client.Configuration()
        try:
            config.load_incluster_config(client_configuration=configuration)
        except config.ConfigException:
            await config.load_kube_config(client_configuration=configuration)
        return cls(client.ApiClient(configuration), timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def serving(self, namespace: str, name: str) -> KubernetesObject | None:
        """Return a ModelServing, or None when it is gone."""
        return await self._ignoring_absence("GET", "ModelServing", namespace, f"/{name}")

    async def engines(self, kind: str, namespace: str, serving: str) -> list[KubernetesObject]:
        """List the Deployments or Pods of a ModelServing, straight from the API server."""
        query = {"labelSelector": f"{SERVING_LABEL}={serving}"}
        listed = await self._call("GET", kind, namespace, query=query)
        return list(listed["items"])

    async def events_of(self, namespace: str, uid: str) -> list[KubernetesObject]:
        """List the Events of one object."""
        query = {"fieldSelector": f"involvedObject.uid={uid}"}
        listed = await self._call("GET", "Event", namespace, query=query)
        return list(listed["items"])

    async def post_event(self, event: KubernetesObject) -> None:
        """Create an Event."""
        await self._call("POST", "Event", event["metadata"]["namespace"], body=event)

    async def log_of(self, namespace: str, pod: str, container: str, *, previous: bool) -> str:
        """Return the end of a container's log; `previous`: of the one before the latest start."""
        query = {
            "container": container,
            "previous": str(previous).lower(),
            "tailLines": str(_LOG_LINES),
            "limitBytes": str(_LOG_BYTES),
        }
        data = await self._read("GET", "Pod", namespace, f"/{pod}/log", query=query)
        return data.decode(errors="replace")

    async def owner_of(self, kind: str, namespace: str, name: str) -> str | None:
        """Return the uid of the ModelServing that an object belongs to; None when it is absent.

        Empty for an object of somebody else's. By a list, since listing is what the role grants.
        """
        query = {"fieldSelector": f"metadata.name={name}"}
        listed = await self._call("GET", kind, namespace, query=query)
        return next((owner_of(each["metadata"]) for each in listed["items"]), None)

    async def apply(self, manifest: KubernetesObject) -> None:
        """Server-side apply, taking over fields of the manifest that someone else has changed."""
        metadata = manifest["metadata"]
        await self._call(
            "PATCH",
            manifest["kind"],
            metadata["namespace"],
            f"/{metadata['name']}",
            content_type=_APPLY,
            query={"fieldManager": FIELD_MANAGER, "force": "true"},
            body=manifest,
        )

    async def scale_down(self, namespace: str, deployment: str, replicas: int) -> None:
        """Lower a Deployment's replicas; one that is gone is down."""
        await self._ignoring_absence(
            "PATCH",
            "Deployment",
            namespace,
            f"/{deployment}",
            content_type=_MERGE,
            query={"fieldManager": FIELD_MANAGER},
            body={"spec": {"replicas": replicas}},
        )

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object; its Pods get their full grace."""
        await self._ignoring_absence(
            "DELETE", kind, namespace, f"/{name}", query={"propagationPolicy": "Background"}
        )

    async def write_status(
        self, namespace: str, name: str, uid: str, status: KubernetesObject
    ) -> KubernetesObject | None:
        """Replace the status of a ModelServing as a whole; return it, or None when it is gone.

        Raises KubernetesApiError also when there is another one of the same name.

        By JSON patch: an update would conflict with every write of a gateway, and servers of the
        age of 1.20 leave a null where server-side apply removes an object.
        """
        return await self._ignoring_absence(
            "PATCH",
            "ModelServing",
            namespace,
            f"/{name}/status",
            content_type=_JSON_PATCH,
            query={"fieldManager": FIELD_MANAGER},
            body=[
                {"op": "test", "path": "/metadata/uid", "value": uid},
                {"op": "add", "path": "/status", "value": status},
            ],
        )

    async def remove_request(self, serving: KubernetesObject, requester: str) -> None:
        """Remove one gateway's entry, unless it changed since the ModelServing was read."""
        entries = serving.get("spec", {}).get("requests", [])
        index = next(
            (i for i, entry in enumerate(entries) if entry.get("requester") == requester), None
        )
        if index is None:
            return
        metadata = serving["metadata"]
        path = f"/spec/requests/{index}"
        try:
            await self._ignoring_absence(
                "PATCH",
                "ModelServing",
                metadata["namespace"],
                f"/{metadata['name']}",
                content_type=_JSON_PATCH,
                query={"fieldManager": FIELD_MANAGER},
                body=[
                    {"op": "test", "path": path, "value": entries[index]},
                    {"op": "remove", "path": path},
                ],
            )
        except KubernetesApiError as error:
            # A failed test: the gateway is alive after all.
            if error.status not in (409, 422):
                raise

    async def _ignoring_absence(self, *args: Any, **kwargs: Any) -> KubernetesObject | None:
        try:
            return await self._call(*args, **kwargs)
        except KubernetesApiError as error:
            if error.status != 404:
                raise
            return None

    async def _call(self, *args: Any, **kwargs: Any) -> KubernetesObject:
        answer: KubernetesObject = json.loads(await self._read(*args, **kwargs))
        return answer

    async def _read(
        self,
        method: str,
        kind: str,
        namespace: str,
        suffix: str = "",
        *,
        content_type: str | None = None,
        query: dict[str, str] | None = None,
        body: Any = None,
    ) -> bytes:
        path = _PATHS[kind].format(namespace=namespace) + suffix
        headers = {"Accept": "application/json"}
        if content_type is not None:
            headers["Content-Type"] = content_type
        call = f"{method} {path}"
        code = 0
        try:
            request = await self._client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            async with self._at_once:
                response = await self._client.call_api(
                    *request, _request_timeout=self._timeout_seconds
                )
                code = response.status
                data = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubernetesApiError(call, 0, repr(error)) from error
        finally:
            metrics.count_api_request(_verb(method, suffix, content_type), _plural(path), code)
        if code >= 300:
            raise KubernetesApiError(call, code, _message(data), _retry_after(response.headers))
        return bytes(data)


def _verb(method: str, suffix: str, content_type: str | None) -> str:
    """Return what Kubernetes calls a request: the verb of a role, and apply apart from patch."""
    if method == "GET":
        return "get" if suffix else "list"
    if method == "PATCH":
        return "apply" if content_type == _APPLY else "patch"
    return {"POST": "create", "DELETE": "delete"}[method]


def _plural(path: str) -> str:
    """Return the resource that a path leads to, with its subresource: `modelservings/status`."""
    _, _, rest = path.partition("/namespaces/")
    _, resource, *name_and_subresource = rest.split("/")
    return "/".join([resource, *name_and_subresource[1:]])


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of a Retry-After; API servers send no dates."""
    try:
        return max(float(headers["Retry-After"]), 0.0)
    except (KeyError, ValueError):
        return None


def _message(data: bytes) -> str:
    """Return the message of a metav1.Status, or the start of whatever came instead."""
    try:
        return str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        return data[:200].decode(errors="replace")
