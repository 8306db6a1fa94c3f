"""`make bench-gateway`: everything in one run. --quick and --only are for a look in between."""

import sys
from contextlib import AsyncExitStack
from typing import Annotated, Any

import typer
import uvloop
from rich.console import Console

from benchmarks.gateway import holding, measurements, proxies, report, soak
from benchmarks.gateway.api_server import ApiServer
from benchmarks.gateway.processes import (
    LOAD_CORE,
    child,
    free_port,
    rest_on_core,
    wait_until_it_answers,
    working_directory,
)


def main(
    quick: Annotated[bool, typer.Option(help="Short rounds, for a look.")] = False,
    only: Annotated[str, typer.Option(help="Measurements, by name, with commas.")] = "",
    of: Annotated[str, typer.Option(help="Proxies, by name, with commas.")] = "",
) -> None:
    """Measure the gateway beside other proxies. Only a whole run writes its figures down."""
    wanted = [name for name in only.split(",") if name]
    names = [name for name in proxies.NAMES if not of or name in of.split(",")]
    proxies.install(names)
    rest_on_core(LOAD_CORE)
    uvloop.run(_run(quick, wanted, names))


async def _run(quick: bool, wanted: list[str], names: list[str]) -> None:
    console = Console(stderr=True)

    def tell(line: str) -> None:
        console.print(line, highlight=False, style="dim")

    figures: dict[str, Any] = {}
    versions: dict[str, str] = {}
    with working_directory() as files:
        async with AsyncExitStack() as stack:
            engine = free_port()
            log = files / "engine.log"
            argv = [sys.executable, "-m", "benchmarks.gateway.engine", str(engine)]
            process = stack.enter_context(child(argv, LOAD_CORE, log))
            await wait_until_it_answers(f"http://127.0.0.1:{engine}/health", process, log, 20)
            api = ApiServer(f"http://127.0.0.1:{engine}")
            api.activate("mistral")
            await stack.enter_async_context(api.listening(free_port(), files / "kubeconfig"))
            running = []
            for name in names:
                tell(f"starting {name}")
                starting = proxies.started(name, engine, files, files / "kubeconfig")
                proxy = await stack.enter_async_context(starting)
                versions[name] = proxy.version
                running.append(proxy)
                proxy.pause()
            for measurement in measurements.measurements(quick):
                if not wanted or measurement.name in wanted:
                    figures[measurement.name] = await measurements.measure(
                        measurement, running, tell
                    )
            kubeconfig = files / "kubeconfig"
            if proxies.OURS in names and (not wanted or "held" in wanted):
                tell("held")
                async with proxies.started(proxies.OURS, engine, files, kubeconfig) as gateway:
                    figures["held"] = await holding.measure(gateway, engine, api)
            if proxies.OURS in names and (not wanted or "soak" in wanted):
                tell("soak")
                async with proxies.started(proxies.OURS, engine, files, kubeconfig) as gateway:
                    requests = 10_000 if quick else 100_000
                    figures["soak"] = await soak.measure(gateway, api, requests)
    report.show(figures, versions)
    if not wanted and len(names) == len(proxies.NAMES):
        for path in report.write(figures):
            console.print(f"written: {path}")


if __name__ == "__main__":
    typer.run(main)
