"""The demo: three models on one GPU, asked one after the other through one endpoint.

Prints what a person would see; everything is left up for them to go on with.
"""

import base64
import io
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from PIL import Image
from rich.console import Console
from rich.markup import escape

from tests.harness import cluster as clusters
from tests.harness import deploy, kind, tools
from tests.harness.cluster import Cluster
from tests.harness.engines import gpu_lock
from tests.harness.engines.engine_images import build_vllm_cpu
from tests.harness.engines.tiny_models import ensure_models
from tests.harness.errors import HarnessError
from tests.harness.progress import step
from tests.harness.servings import vllm_cpu_modelserving

NAMESPACE: Final = "modelserving"
SERVING: Final = "l4"

_FIRST_LOAD_SECONDS: Final = 300
_SWAP_SECONDS: Final = 300
_LOOK_SECONDS: Final = 1.0

_console = Console(highlight=False)


@dataclass(frozen=True)
class Question:
    """One chat completion of the demo."""

    model: str
    shown: str
    content: Any


def questions() -> list[Question]:
    """Return what the demo asks: text, code, and a picture."""
    return [
        Question("mistral", "Who are you?", "Who are you?"),
        Question("coder", "Write a function that answers.", "Write a function that answers."),
        Question(
            "llava",
            "What colour is this picture? [a red square, PNG]",
            [
                {"type": "text", "text": "What colour is this picture?"},
                {"type": "image_url", "image_url": {"url": picture("red")}},
            ],
        ),
    ]


def picture(colour: str) -> str:
    """Return a small square of one colour as a data URL, as OpenAI's clients send pictures."""
    file = io.BytesIO()
    Image.new("RGB", (28, 28), colour).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def run() -> None:
    """Bring everything up and ask each model once. Raises HarnessError when something fails."""
    cluster = clusters.up()
    url = cluster.gateway_url
    if url is None:
        raise HarnessError("the demo needs the harness's own cluster, whose gateway has a port")
    _deploy(cluster)
    _await_default_model(cluster)
    _console.print(_servings(cluster))
    with httpx.Client(base_url=url, timeout=_SWAP_SECONDS) as http:
        for question in questions():
            _ask(cluster, http, question)
    _tell_how_to_go_on(cluster, url)


def _deploy(cluster: Cluster) -> None:
    others = [name for name in deploy.own_namespaces(cluster) if name != NAMESPACE]
    deploy.remove_namespaces(cluster, others)
    ensure_models(cluster.models)
    gpu_lock.prepare(cluster.gpu_directory)
    engine = build_vllm_cpu()
    cluster.load(engine)
    service = {"type": "NodePort", "nodePort": kind.GATEWAY_NODE_PORT}
    deploy.install(cluster, NAMESPACE, values={"gateway": {"service": service}})
    manifest = vllm_cpu_modelserving(SERVING, image=engine)
    deploy.apply(cluster, manifest, namespace=NAMESPACE)
    # A pin that a person set after the last demo would refuse what this one asks.
    cluster.kubectl(
        *("--namespace", NAMESPACE, "patch", f"modelserving/{SERVING}", "--type=merge"),
        *("--patch", '{"spec":{"activeModel":null}}'),
    )


def _await_default_model(cluster: Cluster) -> None:
    with step("Wait until a model serves (the first load of vLLM)"):
        cluster.kubectl(
            *("--namespace", NAMESPACE, "wait", f"modelserving/{SERVING}"),
            *("--for=condition=Ready", f"--timeout={_FIRST_LOAD_SECONDS}s"),
            timeout=_FIRST_LOAD_SECONDS + 30,
        )


def _servings(cluster: Cluster) -> str:
    return escape(cluster.kubectl("--namespace", NAMESPACE, "get", "modelserving").rstrip())


def _ask(cluster: Cluster, http: httpx.Client, question: Question) -> None:
    """Ask one question, and show the ModelServing each time that it changes meanwhile."""
    _console.rule(f"[bold]{question.model}")
    _console.print(f"[bold cyan]asked[/]   {escape(question.shown)}")
    body = {
        "model": question.model,
        "messages": [{"role": "user", "content": question.content}],
        "temperature": 0,
        "max_tokens": 64,
    }
    with ThreadPoolExecutor(max_workers=1) as pool:
        answer = pool.submit(http.post, "/v1/chat/completions", json=body)
        _show_until(answer, cluster)
    response = answer.result()
    if response.status_code != httpx.codes.OK:
        raise HarnessError(f"{question.model}: {response.status_code}: {response.text}")
    text = response.json()["choices"][0]["message"]["content"]
    _console.print(f"[bold green]answer[/]  {escape(text)}")
    held = float(response.headers.get("x-modelserving-held-seconds", 0))
    _console.print(
        f"[bold]held[/]    {held:.1f} s, {response.elapsed.total_seconds():.1f} s in all\n"
    )
    _console.print(_servings(cluster))


def _show_until(answer: "Future[httpx.Response]", cluster: Cluster) -> None:
    shown = ""
    while not answer.done():
        line = cluster.kubectl(
            *("--namespace", NAMESPACE, "get", "modelserving", SERVING, "--no-headers"),
            *("--output", f"custom-columns={_COLUMNS}"),
        ).strip()
        if line != shown:
            _console.print(f"[dim]  {escape(line)}[/]", soft_wrap=True)
            shown = line
        # A person's pace: this is a picture of what `kubectl get -w` shows, not a measurement.
        time.sleep(_LOOK_SECONDS)


_READY: Final = '.status.conditions[?(@.type=="Ready")]'
_COLUMNS: Final = ",".join(
    (
        "ACTIVE:.status.activeModel",
        "TARGET:.status.targetModel",
        f"READY:{_READY}.status",
        f"REASON:{_READY}.reason",
        f"MESSAGE:{_READY}.message",
    )
)


def _tell_how_to_go_on(cluster: Cluster, url: str) -> None:
    _console.rule("[bold]Everything is left up")
    # Plain lines without a frame: they are there to be copied.
    _console.print(
        f"""In another terminal:

  export KUBECONFIG={cluster.kubeconfig} PATH="$PATH:{Path(tools.kubectl()).parent}"
  kubectl -n {NAMESPACE} get modelserving -w
  kubectl -n {NAMESPACE} describe modelserving {SERVING}

Ask (any OpenAI client works; the model's name is all that changes):

  curl {url}/v1/chat/completions -H 'Content-Type: application/json' \\
    -d '{{"model": "coder", "messages": [{{"role": "user", "content": "Hello"}}]}}'
  curl {url}/v1/models
  curl {url}/status

Pin a model, and let go of it:

  kubectl -n {NAMESPACE} patch ms {SERVING} --type=merge -p '{{"spec":{{"activeModel":"llava"}}}}'
  kubectl -n {NAMESPACE} patch ms {SERVING} --type=merge -p '{{"spec":{{"activeModel":null}}}}'

Take everything down:

  make down
""",
        markup=False,
        soft_wrap=True,
    )
