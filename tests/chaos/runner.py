"""Chaos, round by round: wait for the moment, do the fault, see everything converge, check.

What is done is faults.py's, how injecting.py's, what must hold checks.py's; here is the order.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import httpx
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_fixed,
)

from tests.chaos import checks
from tests.chaos.clients import Client, Ledger, Request, steady
from tests.chaos.injecting import Injected, forget_back_off, inject
from tests.chaos.site import MODELS, Object, Site
from tests.cluster.kubernetes import SERVINGS, is_serving
from tests.harness.engines import gpu_lock
from tests.harness.errors import HarnessError
from tests.harness.faults import Deed, Fault, Kind, Moment, Target

BOUND_SECONDS: Final = 120.0
"""From the end of a fault until every ModelServing has been Ready and every model has answered
through every gateway. Kubernetes may need 40 s for itself: the API server's start takes 10 s, and a
scheduler that ended itself without it comes back after a back-off of 10 s and waits 15 s for the
old one's lease. Then the swap that was amid and one more, of up to 20 s each: the kubelet of the
test cluster (1.20) takes ten of them to let go of a Pod. Half as much again is for a busy machine;
the longest of 36 was 33 s."""

GIVE_UP_SECONDS: Final = 300.0
"""A round that takes longer than the bound has failed; waiting on tells late from never."""

_MOMENT_SECONDS: Final = 60.0
"""Until a ModelServing is in the phase that is waited for: a swap is begun every 13 s."""

_PAUSE_SECONDS: Final = 1.0
"""Between two requests of one client: 2 cores have an API server and ten programs to run, too."""

_SETTLED_SECONDS: Final = 30.0
"""For what is told with a delay: a kubelet's count of restarts, a withdrawn entry."""


@dataclass
class Round:
    """What came of one fault."""

    fault: Fault
    serving: str = ""
    victim: str = ""
    waited_seconds: float = 0.0
    """Until the moment came, without the delay after it."""
    converge_seconds: float | None = None
    seconds: float = 0.0
    cuts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    unanswered: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)

    def wrong(self) -> list[str]:
        """Return all that was wrong."""
        return [*self.violations, *self.unanswered, *self.orphans, *self.findings]


@dataclass
class Run:
    """One run under steady load."""

    site: Site
    ledger: Ledger = field(default_factory=Ledger)
    killed: Counter[str] = field(default_factory=Counter)
    """How often we killed a container of each Pod."""
    rounds: list[Round] = field(default_factory=list)
    violations_told: int = 0

    async def play(self, fault: Fault) -> Round:
        """Do one fault under load, and return what was seen."""
        result = Round(fault)
        self.rounds.append(result)
        began = time.monotonic()
        name = await self.site.watched.until(_in(fault.moment), within=_MOMENT_SECONDS)
        if name is None:
            result.findings.append(f"no ModelServing was {fault.moment} in {_MOMENT_SECONDS:g} s")
        result.serving = name or min(MODELS)
        result.waited_seconds = time.monotonic() - began
        injected = await inject(self.site, fault, result.serving)
        result.victim = injected.victim
        if injected.killed is not None:
            self.killed[injected.victim] += 1
        result.converge_seconds = await self._converge(injected, result)
        # Before anything is replaced: a Pod that is new has no history.
        result.findings += await _until_nothing(partial(self._amiss, injected))
        await forget_back_off(self.site, fault)
        # Only now: what ended meanwhile is this round's, with its excuses, and none of the next.
        gateway_killed = fault.kind == Kind(Deed.KILL, Target.GATEWAY)
        await self._judge(result, [result.victim] if gateway_killed else [])
        result.seconds = time.monotonic() - began
        return result

    async def _converge(self, injected: Injected, result: Round) -> float | None:
        """Wait until all is well again; return how long that took from the fault's end."""
        number = result.fault.number
        asked = [
            asyncio.create_task(client.once(streamed=place % 2 == number % 2))
            for place, client in enumerate(self.clients(f"after-{number}", service=False))
        ]
        waits = [
            *asked,
            asyncio.create_task(self.site.until_ready()),
            asyncio.create_task(self._until_ended(injected.healed)),
        ]
        done, late = await asyncio.wait(waits, timeout=GIVE_UP_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()
        if late:
            result.findings += await self._not_converged(injected.healed)
            return None
        took = time.monotonic() - injected.healed
        if took > BOUND_SECONDS:
            result.findings.append(f"converged after {took:.1f} s, not within {BOUND_SECONDS:g} s")
        return took

    async def _not_converged(self, healed: float) -> list[str]:
        servings = await self.site.objects(SERVINGS)
        dark = [
            f"{each['metadata']['name']} is not Ready"
            for each in servings
            if not is_serving(each, each.get("status", {}).get("activeModel"))
        ]
        waiting = [str(_story(each)) for each in self.ledger.older_than(healed)]
        return [f"not converged within {GIVE_UP_SECONDS:g} s", *dark, *waiting]

    async def _until_ended(self, moment: float) -> None:
        """Wait until whatever was asked before a moment has come to an end."""
        while self.ledger.older_than(moment):
            await self.ledger.one_ended.wait()

    async def _amiss(self, injected: Injected) -> list[str]:
        """Return which kill has not taken effect, and what was restarted without one."""
        found = checks.restarts(await self.site.program_pods(), self.killed)
        if injected.killed and not await asyncio.to_thread(injected.killed.replaced):
            found.append(f"{injected.victim} was killed, and its process is still the same")
        return found

    async def end(self) -> None:
        """Judge what came after the last round, with the load gone. Nothing excuses it."""
        last = self.rounds[-1]
        if last.converge_seconds is not None:
            last.findings += await self._come_to_rest()
        last.findings += await _until_nothing(self._left)
        await self._judge(last, [])
        last.unanswered += [_story(each) for each in self.ledger.open.values()]

    async def _come_to_rest(self) -> list[str]:
        """Let the last swap end: it may be wrong like any other."""
        try:
            async with asyncio.timeout(BOUND_SECONDS):
                await self.site.until_ready()
        except TimeoutError:
            return [f"without load not every ModelServing was Ready in {BOUND_SECONDS:g} s"]
        return []

    async def _judge(self, result: Round, killed_gateways: Collection[str]) -> None:
        """Add what was wrong since the last time."""
        attempts = self.ledger.take_attempts()
        cuts, errors = checks.counted(attempts)
        result.cuts += cuts
        result.errors += errors
        result.findings += checks.unexcused(attempts, killed_gateways)
        ended = self.ledger.take_ended()
        result.unanswered += [_story(each) for each in ended if not each.answered]
        result.violations += self._new_violations()
        servings = await self.site.objects(SERVINGS)
        engines = await self.site.engine_objects()
        result.orphans += checks.orphans(servings, engines)
        result.orphans += checks.stale_demand(servings, list(self.site.gateways))
        result.findings += checks.scaled_up_twice(engines["Deployment"])

    def _new_violations(self) -> list[str]:
        found = gpu_lock.violations(self.site.cluster.gpu_directory)
        new, self.violations_told = found[self.violations_told :], len(found)
        return [f"GPU: {each}" for each in new]

    def clients(self, name: str, *, service: bool = True) -> list[Client]:
        """Return a client for every model through every gateway, and through their Service."""
        addresses = [*self.site.gateways.items(), *([("", self.site.service_url)] * service)]
        return [
            Client(f"{name}-{gateway[-5:] or 'service'}-{model}", gateway, url, model, self.ledger)
            for gateway, url in addresses
            for models in MODELS.values()
            for model in models
        ]

    def patience(self) -> float:
        """Return how many seconds the last requests are waited for."""
        stuck = bool(self.rounds) and self.rounds[-1].converge_seconds is None
        return 0.0 if stuck else GIVE_UP_SECONDS

    async def _left(self) -> list[str]:
        held = await self.site.held()
        return [
            *(f"{pod} still has {count} requests" for pod, count in held.items() if count),
            *checks.demand_left(await self.site.objects(SERVINGS)),
            *checks.restarts(await self.site.program_pods(), self.killed),
        ]


async def _until_nothing(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """Look until there is nothing to tell; return what is there after a while."""
    told: list[str] = await AsyncRetrying(
        retry=retry_if_result(bool) | retry_if_exception_type((httpx.HTTPError, HarnessError)),
        wait=wait_fixed(0.5),
        stop=stop_after_delay(_SETTLED_SECONDS),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )(look)
    return told


def _in(moment: Moment) -> Callable[[Object], bool]:
    def check(serving: Object) -> bool:
        status = serving.get("status", {})
        if moment is Moment.SERVING:
            return is_serving(serving, status.get("activeModel"))
        return bool(status.get("currentSwap", {}).get("phase") == moment.value)

    return check


def _story(request: Request) -> str:
    """Return what became of a request, for a person."""
    tries = "; ".join(str(each) for each in request.attempts[-5:]) or "nothing came yet"
    return f"{request.text} was asked {len(request.attempts)} times: {tries}"


@asynccontextmanager
async def under_load(site: Site) -> AsyncIterator[Run]:
    """Yield a run with its clients asking. What they leave behind is judged by its `end`."""
    run = Run(site)
    clients = run.clients("load")
    async with steady(clients, pause_seconds=_PAUSE_SECONDS, patience=run.patience):
        yield run


async def play(site: Site, faults: Iterable[Fault], told: Callable[[Run, Round], None]) -> Run:
    """Play faults one after the other; `told` is called after each.

    Ends early when the cluster does not converge: whatever came next would say nothing.
    """
    async with under_load(site) as run:
        for fault in faults:
            result = await run.play(fault)
            told(run, result)
            if result.converge_seconds is None:
                break
    await run.end()
    return run
