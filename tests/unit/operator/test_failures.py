"""What becomes of each failure: said plainly, and undone as soon as it can be."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from modelserving_api.names import ConditionType, Reason
from modelserving_api.status import Condition, ConditionStatus, SwapOutcome, SwapPhase
from modelserving_operator.actions import ScaleDown
from modelserving_operator.planning import plan
from tests.unit.operator.world import World, model, spec


def serving_world(**fields: object) -> World:
    """Return a world in which mistral, the default, serves."""
    world = World(spec(**{"defaultModel": "mistral", **fields}))
    world.run(until=world.active("mistral"))
    return world


def ready_of(world: World) -> Condition:
    """Return what Ready says."""
    ready = world.status.condition(ConditionType.READY)
    assert ready is not None
    return ready


def warned(world: World) -> list[Reason]:
    """Return the reasons of the Warning Events so far."""
    return [each.reason for each in world.told if each.type == "Warning"]


def keep_asking(world: World, seconds: float, until: Callable[[World], bool] | None = None) -> None:
    """Let time pass with gateways that renew their demand, until something holds."""
    for _ in range(int(seconds / 5)):
        world.renew()
        end = world.now + timedelta(seconds=5)
        while world.now < end:
            world.run(seconds=0.5)
            if until is not None and until(world):
                return
    assert until is None, f"never happened within {seconds} s: {world.status}"


def with_args(world: World, name: str, *args: str) -> None:
    """Change what a model is started with."""
    models = [
        {**each, "engine": {"args": list(args)}} if each["name"] == name else each
        for each in world.raw_spec["models"]
    ]
    world.raw_spec = {**world.raw_spec, "models": models}


def test_gpu_memory_that_comes_back_late_costs_restarts_and_no_failure() -> None:
    world = serving_world()
    world.greedy["coder"] = 2
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: ready_of(world).reason == Reason.OUT_OF_MEMORY)

    assert "try 2 of 3" in ready_of(world).message
    assert warned(world) == [Reason.OUT_OF_MEMORY]
    keep_asking(world, 60, until=world.active("coder"))

    assert world.status.swaps_failed == 0


def test_a_model_that_never_fits_is_not_tried_again_before_its_spec_changes() -> None:
    world = serving_world()
    world.greedy["coder"] = 99
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.swaps_failed == 1)
    keep_asking(world, 600)

    coder = world.status.model("coder")
    assert (coder.reason, coder.failures) == (Reason.OUT_OF_MEMORY, 1)
    assert coder.next_retry_time is None
    assert world.status.active_model == "mistral"
    degraded = world.status.condition(ConditionType.DEGRADED)
    assert degraded is not None
    assert "not tried again before its spec changes" in degraded.message
    with_args(world, "coder", "--max-model-len", "2048")
    world.greedy.clear()
    world.demand("gateway-a", coder=1)
    world.run(seconds=30, until=world.active("coder"))


def test_a_model_that_has_loaded_before_as_it_is_is_tried_again() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    keep_asking(world, 60, until=world.active("coder"))
    world.greedy["mistral"] = 99
    world.demand("gateway-a", mistral=1)
    keep_asking(world, 120, until=lambda world: world.status.swaps_failed == 1)
    keep_asking(world, 60, until=world.active("coder"))
    assert world.status.model("mistral").next_retry_time is not None
    world.greedy.clear()

    keep_asking(world, 200, until=world.active("mistral"))


def test_where_all_failed_for_good_it_is_said_that_only_a_change_helps() -> None:
    world = World(spec(models=[model("coder")], defaultModel="coder"))
    world.greedy["coder"] = 99
    world.run(seconds=300)

    assert world.status.swaps_failed == 1
    assert ready_of(world).reason == Reason.LOAD_FAILED
    assert "coder" in ready_of(world).message
    assert "before its spec changes" in ready_of(world).message


@pytest.mark.parametrize("trouble", ["unplaced", "weightless"])
def test_what_is_cured_outside_the_spec_is_found_soon_however_often_it_failed(
    trouble: str,
) -> None:
    one = model("coder", loadTimeoutSeconds=20)
    world = World(spec(models=[one], defaultModel="coder"))
    getattr(world, trouble).add("coder")
    world.run(seconds=1200)

    assert world.status.model("coder").failures > 5
    getattr(world, trouble).clear()
    world.run(seconds=60, until=world.active("coder"))


def test_growing_pauses_protect_what_serves_also_from_what_is_cured_outside() -> None:
    world = serving_world()
    world.weightless.add("coder")
    world.demand("gateway-a", coder=1)
    keep_asking(world, 600)

    assert world.status.model("coder").reason == Reason.WEIGHTS_MISSING
    assert 2 <= world.status.model("coder").failures <= 6, "every 30 s would be twice as often"


def test_a_claim_that_is_not_there_is_missing_weights() -> None:
    world = serving_world()
    world.weightless.add("coder")
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.swaps_failed == 1)

    assert "hostPath type check failed" in (world.status.model("coder").message or "")


def test_an_engine_that_answers_serves_on_though_nothing_is_heard_of_its_node() -> None:
    world = serving_world()
    world.silent_since = world.now
    world.demand("gateway-a", coder=1)
    world.running = 1
    keep_asking(world, 45)

    assert world.status.active_model == "mistral"
    ready = ready_of(world)
    assert (ready.status, ready.reason) == (ConditionStatus.TRUE, Reason.SERVING_NODE_NOT_READY)
    assert "worker" in ready.message
    assert warned(world) == [Reason.SERVING_NODE_NOT_READY]
    assert not any(isinstance(each, ScaleDown) for each in world.acted)
    writes = world.status_writes
    keep_asking(world, 60)
    assert world.status_writes == writes
    world.silent_since = None
    world.running = 0
    keep_asking(world, 60, until=world.active("coder"))


def test_a_busy_engine_on_a_silent_node_may_miss_a_look() -> None:
    world = serving_world()
    world.silent_since = world.now
    world.run(seconds=45)
    for _ in range(10):
        world.mute = True
        world.run(seconds=5, tick=5)
        world.mute = False
        world.run(seconds=25, tick=5)

    assert warned(world) == [Reason.SERVING_NODE_NOT_READY]
    assert world.status.active_model == "mistral"


def test_a_load_whose_pods_are_evicted_again_and_again_ends_and_says_so() -> None:
    world = serving_world(models=[model("mistral"), model("coder", loadTimeoutSeconds=120)])
    world.hanging.add("coder")
    world.demand("gateway-a", coder=1)
    told = set()
    for _ in range(20):
        keep_asking(world, 20)
        told.add(ready_of(world).reason)
        if world.status.swaps_failed:
            break
        if any(pod.model == "coder" and pod.is_alive for pod in world.pods.values()):
            world.evict()

    assert world.status.swaps_failed == 1
    assert Reason.EVICTED in told
    assert world.status.model("coder").reason == Reason.EVICTED
    world.demand("gateway-a")
    world.run(until=world.active("mistral"))


def test_a_pod_of_nobodys_is_told_of_and_its_refused_deployment_too() -> None:
    world = serving_world()
    (pod,) = world.pods.values()
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.current_swap is not None)
    stray = replace(pod, uid="stray", name="mistral-stray")
    for _ in range(80):
        haunted: dict[str, Any] = {
            "deployments": {},
            "pods": (stray,),
            "refused": {"mistral": "not ours"},
        }
        planned = plan(replace(world.observe(), **haunted))
        world.status = planned.status
        world.now += timedelta(seconds=1)

    assert ready_of(world).reason == Reason.POD_IN_THE_WAY
    assert "mistral-stray" in ready_of(world).message
    assert "not ours" in ready_of(world).message


def test_an_engine_that_is_silent_with_its_node_is_waited_for_and_is_no_failure() -> None:
    world = serving_world()
    world.silent_since = world.now
    world.mute = True
    world.run(seconds=600)

    assert ready_of(world).reason == Reason.NODE_NOT_READY
    assert "worker" in ready_of(world).message
    assert warned(world) == [Reason.NODE_NOT_READY]
    assert world.status.swaps_failed == 0
    assert len(world.pods) == 1, "no second engine may start"
    world.silent_since, world.mute = None, False
    world.run(seconds=15, until=world.active("mistral"))


def test_an_engine_that_answers_again_before_its_kubelet_does_is_probed_and_serves() -> None:
    world = serving_world()
    world.silent_since = world.now
    world.mute = True
    world.run(seconds=60)
    world.mute = False

    world.run(seconds=15, until=world.active("mistral"))

    assert ready_of(world).reason in (Reason.SERVING, Reason.SERVING_NODE_NOT_READY)
    world.run(seconds=10)
    assert ready_of(world).reason == Reason.SERVING_NODE_NOT_READY


def test_a_pod_that_is_stuck_is_named_with_what_to_do_and_nothing_is_forced() -> None:
    world = serving_world()
    (name,) = (pod.name for pod in world.pods.values())
    world.held.add(name)
    world.demand("gateway-a", coder=1)
    keep_asking(world, 40)
    assert ready_of(world).reason == "Stopping"
    keep_asking(world, 60)

    ready = ready_of(world)
    assert ready.reason == Reason.POD_STUCK_TERMINATING
    assert name in ready.message
    assert "Do not force" in ready.message
    world.run(seconds=120)
    assert warned(world) == [Reason.POD_STUCK_TERMINATING]
    world.held.clear()
    world.run(until=world.active("coder"))


def test_a_deleted_pod_of_the_active_model_must_be_gone_before_the_next_is_waited_for() -> None:
    world = serving_world()
    (name,) = (pod.name for pod in world.pods.values())
    world.held.add(name)
    world.delete_pods()
    world.run(seconds=90)

    assert ready_of(world).reason == Reason.POD_STUCK_TERMINATING
    assert world.status.swaps_failed == 0, "to wait for it is not the model's failure"
    world.held.clear()
    world.run(until=world.active("mistral"))


def test_a_ghost_of_a_view_does_not_send_a_swap_back_once_its_pod_has_been_placed() -> None:
    world = serving_world()
    (ghost,) = world.pods.values()
    ghost = replace(ghost, uid="ghost", terminating=True, ready=False, containers_ready=False)
    world.demand("gateway-a", coder=1)
    world.hanging.add("coder")
    keep_asking(
        world,
        60,
        until=lambda world: any(
            pod.model == "coder" and pod.scheduled for pod in world.pods.values()
        ),
    )
    world.run(seconds=1)
    seen = world.observe()
    haunted = plan(replace(seen, pods=(*seen.pods, ghost)))

    assert haunted.status.current_swap == plan(seen).status.current_swap
    assert haunted.status.current_swap is not None
    assert haunted.status.current_swap.phase is SwapPhase.LOADING


def test_an_evicted_engine_is_told_as_that_and_comes_back() -> None:
    world = serving_world()
    world.evict()
    world.run(seconds=1, until=lambda world: world.status.active_model is None)

    assert warned(world) == [Reason.EVICTED]
    assert world.status.current_swap is not None
    assert "low on disk" in world.status.current_swap.message
    world.run(until=world.active("mistral"))
    assert world.status.last_swap is not None
    assert world.status.last_swap.reason == Reason.EVICTED


def test_an_engine_that_dies_is_told_with_its_exit_code_and_last_words() -> None:
    world = serving_world()
    ((uid, pod),) = world.pods.items()
    died: dict[str, Any] = {"exit_code": 139, "exit_message": "Segmentation fault", "restarts": 1}
    world.pods[uid] = replace(pod, ready=False, containers_ready=False, **died)
    planned = plan(replace(world.observe(), pods=tuple(world.pods.values())))

    (warning, started) = planned.announcements
    assert warning.reason is Reason.ENGINE_DIED
    assert "code 139" in warning.message
    assert "Segmentation fault" in warning.message
    assert started.reason is Reason.SWAP_STARTED


def test_an_active_model_that_is_scaled_down_by_hand_is_told_as_that() -> None:
    world = serving_world()
    world.deployments["mistral"] = replace(world.deployments["mistral"], replicas=0)
    world.run(seconds=3)
    world.run(until=world.active("mistral"))

    assert warned(world) == [Reason.SCALED_BY_HAND]


def test_a_deployment_that_is_deleted_is_told_as_that() -> None:
    world = serving_world()
    del world.deployments["mistral"]
    world.run(seconds=3)
    world.run(until=world.active("mistral"))

    assert warned(world) == [Reason.DELETED_BY_HAND]


def test_where_the_active_models_new_spec_fails_another_one_that_worked_serves() -> None:
    world = World(spec())
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a", llava=1)
    keep_asking(world, 120, until=world.active("llava"))
    world.demand("gateway-a")
    world.broken.add("llava")
    with_args(world, "llava", "--wrong")

    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.run(until=world.active("coder"))

    assert world.status.last_swap is not None
    assert world.status.last_swap.reason == Reason.ROLLED_BACK
    assert world.status.model("llava").reason == Reason.CRASH_LOOP


def test_where_nothing_else_ever_worked_what_served_is_tried_again_though_nobody_asks() -> None:
    world = World(spec())
    world.demand("gateway-a", llava=1)
    world.run(until=world.active("llava"))
    world.demand("gateway-a")
    world.broken.add("llava")
    with_args(world, "llava", "--wrong")
    world.run(until=lambda world: world.status.swaps_failed == 1)

    ready = ready_of(world)
    assert ready.reason == Reason.LOAD_FAILED
    assert "llava" in ready.message
    assert "next try at" in ready.message
    world.run(seconds=120, until=lambda world: world.status.swaps_failed == 3)
    world.broken.clear()
    world.run(seconds=200, until=world.active("llava"))


def test_a_default_model_that_failed_is_tried_again_while_nobody_uses_its_stand_in() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a", mistral=1)
    world.run(until=world.active("mistral"))
    world.demand("gateway-a")
    world.broken.add("mistral")
    with_args(world, "mistral", "--wrong")
    world.run(until=world.active("coder"))
    world.running = 1
    world.run(seconds=120)
    assert world.status.active_model == "coder", "what is used is left alone"
    world.running = 0
    world.broken.clear()

    world.run(seconds=60, until=world.active("mistral"))


def test_a_stand_in_that_was_lost_is_still_one() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a", mistral=1)
    world.run(until=world.active("mistral"))
    world.demand("gateway-a")
    world.broken.add("mistral")
    with_args(world, "mistral", "--wrong")
    world.run(until=world.active("coder"))
    world.delete_pods()
    world.broken.clear()

    world.run(seconds=120, until=world.active("mistral"))


def test_a_stand_in_is_not_disturbed_more_and_more_often() -> None:
    world = serving_world()
    world.demand("gateway-a", coder=1)
    world.run(until=world.active("coder"))
    world.demand("gateway-a", mistral=1)
    world.run(until=world.active("mistral"))
    world.demand("gateway-a")
    world.broken.add("mistral")
    with_args(world, "mistral", "--wrong")
    served = 0
    for _ in range(1200):
        world.turn()
        served += world.status.active_model == "coder"
        world.now += timedelta(seconds=1)

    assert served > 700


def test_what_was_asked_for_once_and_failed_is_not_tried_for_ever() -> None:
    world = World(spec())
    world.broken.add("coder")
    world.demand("gateway-a", coder=1)
    world.run(until=lambda world: world.status.swaps_failed == 1)
    world.demand("gateway-a")
    world.run(seconds=600)

    assert world.status.swaps_failed == 1
    assert ready_of(world).reason == Reason.NO_DEMAND


def test_a_longer_load_budget_makes_a_load_that_took_too_long_worth_another_try() -> None:
    world = serving_world(models=[model("mistral"), model("coder", loadTimeoutSeconds=20)])
    world.hanging.add("coder")
    world.demand("gateway-a", coder=1)
    keep_asking(world, 200, until=lambda world: world.status.model("coder").failures == 2)
    world.run(seconds=60, until=world.active("mistral"))
    world.hanging.clear()
    world.raw_spec = {
        **world.raw_spec,
        "models": [model("mistral"), model("coder", loadTimeoutSeconds=600)],
    }
    world.demand("gateway-a", coder=1)
    world.run(seconds=25, until=world.active("coder"))


def test_another_expected_text_makes_a_failed_probe_worth_another_try() -> None:
    world = serving_world()
    world.wrong.add("coder")
    world.demand("gateway-a", coder=1)
    keep_asking(world, 200)
    failures = world.status.model("coder").failures
    world.run(seconds=200, until=world.active("mistral"))
    world.wrong.clear()
    probe = {"prompt": "The capital of France is", "expectedText": "Paris"}
    models = [
        {**each, "probe": probe} if each["name"] == "coder" else each
        for each in world.raw_spec["models"]
    ]
    hashes = {name: view.spec_hash for name, view in world.deployments.items()}
    world.raw_spec = {**world.raw_spec, "models": models}
    world.demand("gateway-a", coder=1)
    world.run(seconds=20, until=world.active("coder"))

    assert failures > 1
    assert {name: view.spec_hash for name, view in world.deployments.items()} == hashes
    assert world.status.last_swap is not None
    assert world.status.last_swap.outcome is SwapOutcome.SUCCEEDED
