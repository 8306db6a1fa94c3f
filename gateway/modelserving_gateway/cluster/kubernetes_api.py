"""The Kubernetes API behind the Cluster protocol: thin calls, errors converted once.

No decision about models, demand or retries lives here.
"""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import aiohttp
from kubernetes.aio import client, config

from modelserving_api.names import GROUP, PLURAL, VERSION
from modelserving_gateway.cluster.demand import removal_patch
from modelserving_gateway.cluster.protocol import (
    Change,
    ChangeType,
    ClusterError,
    ExpiredError,
    Listing,
)

_REQUEST_TIMEOUT_SECONDS: Final = 15.0
"""For a list or a write: the API server answers in milliseconds; after this it is not there."""

_WATCH_SECONDS: Final = 300
"""The server ends a watch after this, so that no connection lives for ever unnoticed."""

_WATCH_SLACK_SECONDS: Final = 15.0
"""How much later than the server the client gives up."""


@asynccontextmanager
async def open_cluster(
    namespace: str, label_selector: str = ""
) -> AsyncIterator["KubernetesCluster"]:
    """Connect with the Pod's service account, or where there is none with $KUBECONFIG.

    Only ModelServings with those labels are there, if any are given.

    Raises ClusterError when neither is there.
    """
    configuration = client.Configuration()
    try:
        if "KUBERNETES_SERVICE_HOST" in os.environ:
            config.load_incluster_config(client_configuration=configuration)
        else:
            await config.load_kube_config(
                config_file=os.environ.get("KUBECONFIG", ""),
                client_configuration=configuration,
                persist_config=False,
            )
    except (config.ConfigException, OSError) as error:
        raise ClusterError(
            f"no way to the Kubernetes API: {error}; run in a Pod, or set KUBECONFIG"
        ) from error
    async with client.ApiClient(configuration) as api_client:
        yield KubernetesCluster(api_client, namespace, label_selector)


class KubernetesCluster:
    """The ModelServings of one namespace of a real cluster."""

    def __init__(
        self, api_client: client.ApiClient, namespace: str, label_selector: str = ""
    ) -> None:
        self._api = client.CustomObjectsApi(api_client)
        self._where: dict[str, Any] = {
            "group": GROUP,
            "version": VERSION,
            "namespace": namespace,
            "plural": PLURAL,
        }
        self._label_selector = label_selector

    async def list_servings(self) -> Listing:
        """Return all ModelServings. Raises ClusterError."""
        with _converted_errors():
            listing = await self._api.list_namespaced_custom_object(
                **self._where,
                label_selector=self._label_selector,
                _request_timeout=_REQUEST_TIMEOUT_SECONDS,
            )
        return Listing(tuple(listing["items"]), listing["metadata"]["resourceVersion"])

    async def watch_servings(self, resource_version: str) -> AsyncGenerator[Change, None]:
        """Yield changes until the server ends the watch. Raises ClusterError, ExpiredError."""
        with _converted_errors():
            response = await self._api.list_namespaced_custom_object_without_preload_content(
                **self._where,
                label_selector=self._label_selector,
                watch=True,
                resource_version=resource_version,
                allow_watch_bookmarks=True,
                timeout_seconds=_WATCH_SECONDS,
                _request_timeout=_WATCH_SECONDS + _WATCH_SLACK_SECONDS,
            )
            try:
                if response.status != 200:
                    _raise_for(response.status, await response.text())
                yield Change(ChangeType.CONNECTED, {})
                while line := await response.content.readline():
                    yield _change(line)
            finally:
                response.close()

    async def apply(self, name: str, body: Mapping[str, Any], field_manager: str) -> None:
        """Apply a partial object, forced. Raises ClusterError."""
        with _converted_errors():
            await self._api.patch_namespaced_custom_object(
                **self._where,
                name=name,
                body=dict(body),
                field_manager=field_manager,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=_REQUEST_TIMEOUT_SECONDS,
            )

    async def withdraw(self, name: str, uid: str, requester: str, field_manager: str) -> None:
        """Take a requester's entry out of spec.requests, if it is there. Raises ClusterError.

        Not by server-side apply: a server that takes the last entry out of a list that way leaves
        null, and refuses its own result (seen with 1.20). The removal ends the ownership as well,
        so that gateways which are gone leave no trace in managedFields.
        """
        with _converted_errors():
            # A list of one, since a gateway has no permission to get.
            listing = await self._api.list_namespaced_custom_object(
                **self._where,
                field_selector=f"metadata.name={name}",
                _request_timeout=_REQUEST_TIMEOUT_SECONDS,
            )
            patch = next(
                (removal_patch(serving, uid, requester) for serving in listing["items"]), None
            )
            if patch is None:
                return
            await self._api.patch_namespaced_custom_object(
                **self._where,
                name=name,
                body=patch,
                field_manager=field_manager,
                _content_type="application/json-patch+json",
                _request_timeout=_REQUEST_TIMEOUT_SECONDS,
            )


def _change(line: bytes) -> Change:
    event = json.loads(line)
    if event.get("type") == "ERROR":
        status = event.get("object") or {}
        _raise_for(status.get("code", 0), status.get("message", ""))
    return Change(ChangeType(event["type"]), event["object"])


def _raise_for(code: int, message: str) -> None:
    if code == 410:
        raise ExpiredError(message)
    raise ClusterError(f"{code}: {message[:500]}")


@contextmanager
def _converted_errors() -> Iterator[None]:
    try:
        yield
    except client.ApiException as error:
        if error.status == 410:
            raise ExpiredError(str(error.reason)) from error
        raise ClusterError(f"{error.status} {error.reason}: {str(error.body)[:500]}") from error
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError, KeyError) as error:
        raise ClusterError(f"{type(error).__name__}: {error}") from error
