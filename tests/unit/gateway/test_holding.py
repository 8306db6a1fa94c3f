"""A request for another model: held, demanded, released in order, or refused with the reason."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.unit.gateway.conftest import Running, Start, eventually
from tests.unit.gateway.fakes import Connection, Engine, FakeCluster, echo, serving

pytestmark = pytest.mark.asyncio(loop_scope="module")


def active(engine: Engine, **changes: Any) -> FakeCluster:
    return FakeCluster(serving(active="mistral", endpoint=engine.url, **changes))


def error(answer: Any) -> tuple[int, str]:
    body = answer.json()["error"]
    assert body.keys() == {"message", "type", "param", "code"}
    return answer.status_code, body["code"]


async def test_a_held_request_is_forwarded_when_the_model_is_ready(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    assert not engine.requests
    cluster.set_status("l4", targetModel="coder")
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    answer = await asking
    assert answer.json() == {"model": "coder"}
    assert float(answer.headers["x-modelserving-held-seconds"]) > 0
    await eventually(lambda: cluster.demand() == {})


async def test_a_request_of_an_active_model_is_never_held(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    answer = await gateway.ask("mistral")
    assert "x-modelserving-held-seconds" not in answer.headers
    assert not cluster.applied


@pytest.mark.parametrize(
    "status",
    [{}, {"activeModel": "mistral"}, {"activeModel": "mistral", "endpoint": "not a url"}],
    ids=["nothing active", "draining", "bad endpoint"],
)
async def test_a_declared_model_that_is_not_served_is_held_and_never_404(
    start: Start, engine: Engine, status: dict[str, Any]
) -> None:
    """Seen elsewhere (docs/lessons.md): 404 while waking, which clients take as final."""
    cluster = FakeCluster(serving(status=status))
    gateway = await start(cluster)
    asking = gateway.asking("mistral")
    await eventually(lambda: cluster.demand() == {"mistral": 1})
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    assert (await asking).status_code == 200


async def test_held_requests_are_released_in_arrival_order(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = []
    for number in range(20):
        asking.append(gateway.asking("coder", seed=number))
        await gateway.held(number + 1)
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    await asyncio.gather(*asking)
    assert [request.json["seed"] for request in engine.requests] == list(range(20))


async def test_a_client_that_leaves_while_held_is_out_at_once_and_its_demand_withdrawn(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    leaving, staying = gateway.asking("coder"), gateway.asking("mistral")
    await staying
    await eventually(lambda: cluster.demand() == {"coder": 1})
    leaving.cancel()
    await eventually(lambda: cluster.withdrawn == [("l4", "gateway-0")])
    assert cluster.objects["l4"]["spec"]["requests"] == []
    assert (await gateway.status())["held"] == 0
    assert not [each for each in engine.requests if each.json["model"] == "coder"]


async def test_demand_is_the_models_name_even_when_an_alias_was_asked_for(
    start: Start, engine: Engine
) -> None:
    cluster = FakeCluster(serving(active="coder", endpoint=engine.url))
    gateway = await start(cluster)
    asking = [gateway.asking("gpt-4"), gateway.asking("mistral")]
    await gateway.held(2)
    await eventually(lambda: cluster.demand() == {"mistral": 2}, seconds=3)
    cluster.set_status("l4", activeModel="mistral", endpoint=engine.url)
    answers = await asyncio.gather(*asking)
    assert [request.json["model"] for request in engine.requests] == ["mistral"] * 2
    assert [answer.json()["model"] for answer in answers] == ["gpt-4", "mistral"]


async def test_who_waits_for_a_model_that_is_renamed_waits_for_it_by_its_new_name(
    start: Start, engine: Engine
) -> None:
    """The old name goes on as an alias: it is never a 404."""
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    renamed = serving(models={"mistral": [], "coder-2": ["coder"]})["spec"]["models"]
    cluster.set_spec("l4", models=renamed)
    await eventually(lambda: cluster.demand() == {"coder-2": 1})
    cluster.set_status("l4", activeModel="coder-2", endpoint=engine.url)
    answer = await asking
    assert answer.json()["model"] == "coder"
    assert engine.requests[-1].json["model"] == "coder-2"


async def test_who_waits_for_a_model_that_is_removed_is_told(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await gateway.held(1)
    cluster.set_spec("l4", models=serving(models={"mistral": []})["spec"]["models"])
    assert error(await asking) == (404, "model_not_found")


async def test_demand_is_renewed_while_it_lasts(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster, renew_seconds=0.05)
    asking = gateway.asking("coder")
    await eventually(lambda: len(cluster.applied) >= 3)
    entries = [body["spec"]["requests"][0] for _, body, _ in cluster.applied[:3]]
    assert len({entry["renewTime"] for entry in entries}) == 3
    assert len({entry["models"][0]["since"] for entry in entries}) == 1
    assert {manager for _, _, manager in cluster.applied} == {"modelserving-gateway-gateway-0"}
    asking.cancel()


async def test_publishing_is_tried_again_until_it_works(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    cluster.failing_writes = 2
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    asking.cancel()


async def test_demand_that_an_earlier_container_left_is_withdrawn(
    start: Start, engine: Engine
) -> None:
    entry = {"requester": "gateway-0", "renewTime": "2026-11-24T10:00:00Z", "models": []}
    cluster = active(engine, spec={"requests": [entry]})
    await start(cluster)
    await eventually(lambda: cluster.withdrawn)
    assert cluster.objects["l4"]["spec"]["requests"] == []


async def test_two_gateways_publish_side_by_side_and_both_are_released(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    one, two = await start(cluster), await start(cluster, pod_name="gateway-1")
    asking = [one.asking("coder"), two.asking("coder"), two.asking("coder")]
    await eventually(
        lambda: (
            cluster.demand() == {"coder": 1}
            and cluster.demand(requester="gateway-1") == {"coder": 2}
        ),
    )
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    assert [answer.status_code for answer in await asyncio.gather(*asking)] == [200] * 3
    await eventually(lambda: cluster.objects["l4"]["spec"]["requests"] == [])


async def test_a_request_that_is_not_served_in_time_gets_503_with_retry_after(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster, hold_timeout_seconds=0.1)
    answer = await gateway.ask("coder")
    assert error(answer) == (503, "model_not_ready_in_time")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    await eventually(lambda: cluster.demand() == {})


async def test_a_full_queue_is_429(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine), max_held_requests=2)
    asking = [gateway.asking("coder"), gateway.asking("coder")]
    await gateway.held(2)
    answer = await gateway.ask("coder")
    assert error(answer) == (429, "queue_full")
    assert "retry-after" in answer.headers
    assert (await gateway.ask("mistral")).status_code == 200
    for each in asking:
        each.cancel()


async def test_held_bytes_are_bounded_over_all_models(start: Start, engine: Engine) -> None:
    gateway = await start(active(engine), max_held_bytes=1000)
    asking = gateway.asking("coder", messages="x" * 800)
    await gateway.held(1)
    assert error(await gateway.ask("coder", messages="x" * 200)) == (429, "bodies_full")
    asking.cancel()


async def test_bodies_of_forwarded_requests_are_bounded_too(start: Start, engine: Engine) -> None:
    answering = asyncio.Event()

    async def slow(connection: Connection) -> None:
        await answering.wait()
        await echo(connection)

    engine.behaviour = slow
    gateway = await start(active(engine), max_held_bytes=1000)
    asking = gateway.asking("mistral", messages="x" * 800)
    await eventually(lambda: engine.requests)

    assert error(await gateway.ask("mistral", messages="x" * 200)) == (429, "bodies_full")
    # A client that has much to send gets to read it as well.
    assert error(await gateway.ask("mistral", messages="x" * 5_000_000)) == (429, "bodies_full")
    answering.set()
    assert (await asking).status_code == 200
    assert (await gateway.ask("mistral", messages="x" * 200)).status_code == 200


async def test_demand_is_published_anew_where_the_modelserving_was_made_anew(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    body = cluster.objects["l4"]
    anew = {
        **body,
        "metadata": {**body["metadata"], "uid": "another"},
        "spec": {**body["spec"], "requests": []},
    }
    cluster.put(anew)

    await eventually(lambda: cluster.demand() == {"coder": 1}, seconds=2)
    asking.cancel()


async def test_demand_that_somebody_wiped_is_published_anew(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    cluster.set_spec("l4", requests=[])

    await eventually(lambda: cluster.demand() == {"coder": 1}, seconds=4)
    asking.cancel()


def failed(seconds: float) -> dict[str, Any]:
    retry = datetime.now(UTC) + timedelta(seconds=seconds)
    return {
        "name": "coder",
        "state": "Failed",
        "reason": "OutOfMemory",
        "message": "CUDA out of memory",
        "nextRetryTime": retry.isoformat(),
    }


FAILED_FOR_GOOD = {"name": "coder", "state": "Failed", "reason": "OutOfMemory", "failures": 3}


async def refused(gateway: Running, cluster: FakeCluster, change: Any) -> tuple[Any, Any]:
    """Hold a request, make the change, and return its answer and that of a later request."""
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    change()
    held = await asking
    await eventually(lambda: cluster.demand() == {} if "l4" in cluster.objects else True)
    return held, await gateway.ask("coder")


async def test_held_and_new_requests_for_a_model_that_failed_get_the_reason(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    status = {"activeModel": "mistral", "endpoint": engine.url, "models": [failed(300)]}
    for answer in await refused(gateway, cluster, lambda: cluster.set_status("l4", **status)):
        assert error(answer) == (503, "model_load_failed")
        assert "OutOfMemory: CUDA out of memory" in answer.json()["error"]["message"]
        assert answer.headers["retry-after"] == "60"
    assert (await gateway.ask("mistral")).status_code == 200


async def test_a_failed_model_whose_retry_is_due_is_held(start: Start, engine: Engine) -> None:
    cluster = active(engine, status={"models": [failed(-1)]})
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    asking.cancel()


def repaired(engine: Engine) -> FakeCluster:
    """Return a cluster whose operator has not looked yet at the spec that replaced a broken one."""
    status = {"activeModel": "mistral", "endpoint": engine.url, "models": [FAILED_FOR_GOOD]}
    body = serving(status={**status, "observedGeneration": 1})
    body["metadata"]["generation"] = 2
    return FakeCluster(body)


async def test_who_comes_before_the_operator_has_looked_at_a_repaired_spec_gets_an_answer(
    start: Start, engine: Engine
) -> None:
    cluster = repaired(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await gateway.held(1)
    assert not cluster.applied
    cluster.set_status("l4", observedGeneration=2, activeModel="mistral", endpoint=engine.url)
    await eventually(lambda: cluster.demand() == {"coder": 1})
    cluster.set_status("l4", observedGeneration=2, activeModel="coder", endpoint=engine.url)
    assert (await asking).json() == {"model": "coder"}


async def test_who_waits_for_the_operator_to_look_is_told_when_the_change_repaired_nothing(
    start: Start, engine: Engine
) -> None:
    cluster = repaired(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await gateway.held(1)
    cluster.set_status("l4", observedGeneration=2, models=[FAILED_FOR_GOOD])
    answer = await asking
    assert error(answer) == (503, "model_load_failed")
    assert answer.headers["x-should-retry"] == "false"
    assert not cluster.applied


async def test_who_waits_for_an_operator_that_is_away_may_try_again_after_the_budget(
    start: Start, engine: Engine
) -> None:
    gateway = await start(repaired(engine), hold_timeout_seconds=0.1)
    answer = await gateway.ask("coder")
    assert error(answer) == (503, "model_not_ready_in_time")
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert "x-should-retry" not in answer.headers


async def test_requests_for_another_than_the_pinned_model_are_refused(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    pin = lambda: cluster.set_spec("l4", activeModel="mistral")  # noqa: E731
    for answer in await refused(gateway, cluster, pin):
        assert error(answer) == (503, "model_pinned")
        assert "mistral" in answer.json()["error"]["message"]


async def test_requests_end_at_once_when_their_modelserving_is_deleted(
    start: Start, engine: Engine
) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    held, new = await refused(gateway, cluster, lambda: cluster.delete("l4"))
    assert error(held) == (503, "model_serving_deleted")
    assert error(new) == (404, "model_not_found")


async def test_a_modelserving_that_cannot_be_read_harms_no_other_and_is_never_404(
    start: Start, engine: Engine
) -> None:
    broken = serving("broken", {"llava": ["eyes"], "phi": []}, spec={"node": {"gpuMemory": "x"}})
    cluster = active(engine)
    cluster.put(broken)
    gateway = await start(cluster)
    for name in ("llava", "eyes", "phi"):
        answer = await gateway.ask(name)
        assert error(answer) == (503, "model_serving_invalid")
        assert "spec.node.gpuMemory" in answer.json()["error"]["message"]
    assert (await gateway.ask("mistral")).status_code == 200


async def test_a_modelserving_of_a_newer_contract_is_served(start: Start, engine: Engine) -> None:
    newer = serving(active="mistral", endpoint=engine.url, spec={"newField": 1})
    newer["spec"]["models"][0]["newField"] = 1
    cluster = FakeCluster(newer)
    gateway = await start(cluster)
    assert (await gateway.ask("mistral")).status_code == 200
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand() == {"coder": 1})
    asking.cancel()


async def test_a_status_that_is_partly_unreadable_still_tells_where_a_model_is(
    start: Start, engine: Engine
) -> None:
    newer = {"models": [{"name": "coder", "state": "Levitating"}], "lastSwap": {"id": 1}}
    gateway = await start(active(engine, status=newer))
    assert (await gateway.ask("mistral")).status_code == 200


async def test_a_request_goes_where_its_model_is_active(start: Start, engine: Engine) -> None:
    cluster = FakeCluster(
        serving("a", {"coder": [], "mistral": []}),
        serving("b", {"mistral": []}, active="mistral", endpoint=engine.url),
    )
    gateway = await start(cluster)
    assert (await gateway.ask("mistral")).status_code == 200
    assert not cluster.applied


async def test_demand_goes_to_the_modelserving_that_has_not_failed_and_moves_when_it_does(
    start: Start, engine: Engine
) -> None:
    cluster = FakeCluster(serving("a", {"coder": []}), serving("b", {"coder": []}))
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await eventually(lambda: cluster.demand("a") == {"coder": 1})
    cluster.set_status("a", models=[failed(300)])
    await eventually(lambda: cluster.demand("b") == {"coder": 1} and cluster.demand("a") == {})
    cluster.set_status("b", activeModel="coder", endpoint=engine.url)
    assert (await asking).status_code == 200


async def test_a_release_that_meets_a_new_drain_is_held_again(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster)
    asking = gateway.asking("coder")
    await gateway.held(1)
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    cluster.set_status("l4", activeModel="coder")
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    assert (await asking).status_code == 200
    assert len(engine.requests) == 1


async def test_hundreds_of_requests_are_held_and_released(start: Start, engine: Engine) -> None:
    cluster = active(engine)
    gateway = await start(cluster, max_held_requests=300)
    writers = []
    body = b'{"model":"coder"}'
    for _ in range(300):
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.gateway.port)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 17\r\n\r\n" + body
        )
        writers.append((reader, writer))
    await gateway.held(300)
    cluster.set_status("l4", activeModel="coder", endpoint=engine.url)
    async with asyncio.timeout(20):
        heads = [await reader.readline() for reader, _ in writers]
    assert set(heads) == {b"HTTP/1.1 200 OK\r\n"}
    for _, writer in writers:
        writer.close()
