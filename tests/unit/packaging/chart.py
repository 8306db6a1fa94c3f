"""Renders the chart with the real helm, as an installation would see it. Asserts nothing."""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.harness import tools
from tests.harness.process import run

ROOT = Path(__file__).parents[3]
CHART = ROOT / "charts" / "modelserving"
NAMESPACE = "models"

Manifest = dict[str, Any]


class Strict(yaml.SafeLoader):
    """Refuses a key that stands twice in one object, as kustomize does and helm does not."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct an object. Raises ConstructorError for a duplicate key."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"duplicate {key}", node.start_mark
                )
        return super().construct_mapping(node, deep)


@lru_cache
def render(*settings: str, kubernetes: str = "1.35.0", crds: bool = False) -> list[Manifest]:
    """Return the objects that helm would install; `settings` are --set arguments.

    Raises CommandError with helm's message when the chart refuses them.
    """
    arguments = [part for setting in settings for part in ("--set", setting)]
    if crds:
        arguments.append("--include-crds")
    text = run(
        [
            tools.helm(),
            *("template", "release", CHART),
            *("--namespace", NAMESPACE),
            *("--kube-version", kubernetes),
            *arguments,
        ]
    )
    documents = yaml.load_all(text, Strict)
    return [each for each in documents if each]


def of_kind(objects: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the objects of a kind by name."""
    return {each["metadata"]["name"]: each for each in objects if each["kind"] == kind}


def pod_specs(objects: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield (Deployment's name, Pod spec)."""
    for name, deployment in of_kind(objects, "Deployment").items():
        yield name, deployment["spec"]["template"]["spec"]


def notes(*settings: str) -> str:
    """Return what helm tells a person after an installation."""
    arguments = [part for setting in settings for part in ("--set", setting)]
    return run(
        [tools.helm(), "install", "release", CHART, "--dry-run=client", *arguments],
        env={"KUBECONFIG": "/dev/null"},
    )
