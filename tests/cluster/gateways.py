"""Gateways beside those of the installation, from the same chart with other values.

The namespace has one release; a gateway with keys or with a label selector is a Deployment more.
"""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import yaml

from tests.cluster.conftest import VALUES, ready_pods
from tests.cluster.kubernetes import World
from tests.harness import deploy


@asynccontextmanager
async def gateway_with(world: World, values: Mapping[str, Any]) -> AsyncIterator[str]:
    """Yield the name of a ready Pod of one more gateway; `values` are those under `gateway`.

    It is told to stop when the context ends, and nobody waits for that.
    """
    component = f"gateway-{secrets.token_hex(3)}"
    manifest = await asyncio.to_thread(_deployment, world, component, values)
    name = manifest["metadata"]["name"]
    await world.kubectl("apply", "--filename", "-", input=yaml.safe_dump(manifest))
    try:
        (pod,) = await ready_pods(world, component, 1)
        yield pod
    finally:
        await world.kubectl("delete", "deployment", name, "--wait=false")


def _deployment(world: World, component: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the chart's Deployment of the gateway under another name and with other labels."""
    merged = deploy.merged(VALUES, {"gateway": {**values, "replicas": 1}})
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(deploy.chart_values(deploy.build_programs(), merged), file)
        file.flush()
        rendered = world.cluster.helm(
            *("template", deploy.RELEASE, str(deploy.CHART), "--namespace", world.namespace),
            *("--show-only", "templates/gateway.yaml", "--values", file.name),
        )
    (manifest,) = (
        each for each in yaml.safe_load_all(rendered) if each and each["kind"] == "Deployment"
    )
    manifest["metadata"]["name"] = f"modelserving-{component}"
    spec = manifest["spec"]
    for labels in (spec["selector"]["matchLabels"], spec["template"]["metadata"]["labels"]):
        labels["app.kubernetes.io/component"] = component
    result: dict[str, Any] = manifest
    return result
