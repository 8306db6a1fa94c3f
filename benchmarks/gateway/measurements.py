"""What is measured of every proxy, in turns: one round of each, then the next round.

The machine's mood changes by the minute; between the rounds of one turn it changes little. A
figure is the median of its rounds.
"""

import asyncio
import statistics
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from benchmarks.gateway import load
from benchmarks.gateway.engine import EVENTS_BESIDE_TOKENS
from benchmarks.gateway.load import Figures
from benchmarks.gateway.proxies import Proxy

Row = dict[str, float]


@dataclass(frozen=True)
class Measurement:
    """One load, and what of its figures is kept."""

    name: str
    rounds: int
    run: Callable[[int], Awaitable[Figures]]
    """From the port that is asked."""
    figures: Callable[[Figures], Row]


def _one_client(seconds: float) -> Callable[[int], Awaitable[Figures]]:
    return lambda port: load.plain(port, 1, seconds)


def _latency(seen: Figures) -> Row:
    percentiles = statistics.quantiles(seen.latencies, n=100, method="inclusive")
    return {"p50_ms": percentiles[49] * 1000, "p99_ms": percentiles[98] * 1000}


def _rate(seen: Figures) -> Row:
    return {"rps": (len(seen.latencies) - seen.errors) / seen.seconds}


def _events(seen: Figures) -> Row:
    return {"chunks_per_s": seen.events / seen.seconds}


def _gap(seen: Figures) -> Row:
    if len(seen.gaps) < 100:
        return {"p99_gap_ms": seen.seconds * 1000}  # Hardly anything came.
    return {"p99_gap_ms": statistics.quantiles(seen.gaps, n=100)[98] * 1000}


CLIENTS: Final = 64
FULL_STREAMS: Final = 32
PACED_STREAMS: Final = 100
TOKENS: Final = 200 - EVENTS_BESIDE_TOKENS
"""A stream has 200 events with the two at its end."""

_PACED_LIMIT_SECONDS: Final = 12
"""A stream of 200 tokens takes 4 s; what has not come after three times that is cut off."""


def measurements(quick: bool) -> tuple[Measurement, ...]:
    """Return what is measured; quickly for a look, at length for figures to rely on."""
    rounds, seconds = (3, 1.0) if quick else (5, 2.5)
    return (
        Measurement("json_c1", rounds, lambda port: load.plain(port, 1, seconds / 2), _latency),
        Measurement("json_c64", rounds, lambda port: load.plain(port, CLIENTS, seconds), _rate),
        Measurement(
            "stream_full",
            rounds,
            # Cut off when the time is over, not when the last stream ends: all are busy all along.
            lambda port: load.streams(port, FULL_STREAMS, f"FULL {TOKENS}", seconds, seconds),
            _events,
        ),
        Measurement(
            "stream_paced",
            1 if quick else 3,
            lambda port: load.streams(
                port, PACED_STREAMS, f"PACED {TOKENS}", 0, _PACED_LIMIT_SECONDS
            ),
            _gap,
        ),
    )


async def measure(
    measurement: Measurement, proxies: Sequence[Proxy], tell: Callable[[str], None]
) -> dict[str, Row]:
    """Run all rounds of one measurement. Raises RuntimeError when a proxy answers with errors."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for number in range(measurement.rounds):
        for proxy in proxies:
            with proxy.awake():
                await asyncio.sleep(0.05)
                if number == 0:
                    await load.plain(proxy.port, 8, 0.5)  # connections, caches, code paths
                seen = await measurement.run(proxy.port)
            if seen.errors:
                tell(f"{measurement.name}: {proxy.name} had {seen.errors} errors")
            row = measurement.figures(seen)
            rows[proxy.name].append(row)
            tell(f"{measurement.name} {number + 1}: {proxy.name} {_shown(row)}")
    return {name: _medians(each) for name, each in rows.items()}


def _medians(rows: Sequence[Row]) -> Row:
    return {key: round(statistics.median(row[key] for row in rows), 3) for key in rows[0]}


def _shown(row: Mapping[str, float]) -> str:
    return " ".join(f"{key}={value:.3f}" for key, value in row.items())
