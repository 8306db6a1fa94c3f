"""The harness on the command line: `python -m tests.harness up | down | status | demo | env`.

Prints; what it does is in cluster.py.
"""

import shlex
from typing import Annotated

import typer
from rich.markup import escape

from tests.harness import cluster, docker, kind
from tests.harness import demo as demonstration
from tests.harness.errors import HarnessError
from tests.harness.progress import console

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.command()
def up() -> None:
    """Make sure that there is a healthy cluster with a GPU node. Safe to repeat."""
    made = cluster.up()
    print(f"{made.context} is up.")
    print(f"  kubectl:  export KUBECONFIG={shlex.quote(str(made.kubeconfig))}")
    if made.gateway_url:
        print(f"  gateway:  {made.gateway_url} (NodePort {kind.GATEWAY_NODE_PORT})")
    print("  take down: python -m tests.harness down")


@app.command()
def down(
    keep_docker: Annotated[
        bool, typer.Option(help="Leave the Docker daemon that the harness started.")
    ] = False,
) -> None:
    """Delete the cluster and stop the Docker daemon the harness started. Caches stay."""
    cluster.down(stop_docker=not keep_docker)
    print("down.")


@app.command()
def status() -> None:
    """Say what there is. Changes nothing; exits 1 when it is not ready."""
    found = cluster.status()
    print(f"docker:  {found.docker}")
    print(f"cluster: {found.cluster}")
    for node in found.nodes:
        print(f"node:    {node}")
    print(f"gpus:    {found.gpus}")
    print(f"ready:   {'yes' if not found.waiting_for else 'no, waiting for ' + found.waiting_for}")
    if found.waiting_for:
        raise typer.Exit(1)


@app.command()
def demo() -> None:
    """Bring up the cluster with real vLLM, ask each of three models once, leave it all up."""
    demonstration.run()


@app.command()
def env() -> None:
    """Print shell assignments for docker and kubectl: eval "$(python -m tests.harness env)"."""
    for name, value in docker.environment().items():
        print(f"export {name}={shlex.quote(value)}")
    print(f"export KUBECONFIG={shlex.quote(str(cluster.find().kubeconfig))}")


def main() -> None:
    """Run the command; a HarnessError becomes one message and status 1."""
    try:
        app()
    except HarnessError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
